"""The API process: HTTP in front of the engine. It knows no tensor and imports no torch."""
