"""What every HTTP port of ours needs: bounded connections, errors in OpenAI's form, a log."""
