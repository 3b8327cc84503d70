"""The ground floor: threads, the machine, files, strict JSON, bytes to text. Nothing here knows of a model."""
