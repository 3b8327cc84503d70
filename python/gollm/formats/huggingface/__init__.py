"""Folders in the format of Hugging Face's transformers: config.json and *.safetensors."""
