from retrievers.processors import let_waiting_threads_sleep

let_waiting_threads_sleep()  # before anything here imports torch
