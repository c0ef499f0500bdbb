"""The protocol, sentence by sentence: each test names the sentence that it proves and looks only at the wire."""
