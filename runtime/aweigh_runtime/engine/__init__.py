"""The engine process: schedules, computes and samples. It knows no HTTP and no text."""
