"""Making a corpus and question files from what is published: `retrievers.build_corpus` is the command.

hub.py        downloads files of data sets from the Hugging Face Hub
rows.py       the rows of a file, whatever its format
shapes.py     what a row holds: the paragraphs of a question, or a passage
writer.py     writes passages once, and the questions
sources.py    what the corpus was made of, and how much of it the questions find
"""
