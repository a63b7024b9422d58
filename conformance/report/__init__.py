"""What a run found, for people and for machines: console, JSON, JUnit and HTML."""
