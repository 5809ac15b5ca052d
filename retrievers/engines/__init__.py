"""Searches through engines that exist already, each in a file of its own; `open_retriever` opens them by name.

    elasticsearch:http://HOST:9200/INDEX                      Elasticsearch or OpenSearch
    qdrant:http://HOST:6333/COLLECTION?encoder=MODEL          a Qdrant server
    qdrant:FOLDER/COLLECTION?encoder=MODEL                    Qdrant's local mode
    lucene:FOLDER                                             an index of Anserini or Pyserini

Options after the ? name the fields of a passage (`title`, `text`, or `contents` for both in FlashRAG's form).
"""
