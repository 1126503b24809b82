"""The web page: sequences, language models and jets in the browser, on top of the commands of the three fields."""
