"""From a request (image, prompt, control values) to files of clips."""
