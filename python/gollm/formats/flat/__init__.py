"""Models in one flat file, as llama2.c and llm.c have them."""
