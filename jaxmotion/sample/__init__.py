"""From a request (photo, prompt, levels) to files of clips."""
