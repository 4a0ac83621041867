"""Tool calls as models write them: found in an answer, forced by a grammar, shown in a prompt."""
