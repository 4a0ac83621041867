"""Streams an answer from an endpoint with the openai package.

kubectl port-forward svc/helmsman 8000
python openai_client.py http://127.0.0.1:8000/v1 "What is a Pod?"

OPENAI_API_KEY has the key of a service with `auth`.
"""

import os
import sys

from openai import OpenAI


def main() -> None:
    """Ask the endpoint's first model and print the answer as it comes."""
    if len(sys.argv) != 3:
        sys.exit("usage: openai_client.py BASE_URL QUESTION")
    base_url, question = sys.argv[1:]
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], stream=True
    )
    for chunk in stream:
        if chunk.choices:
            sys.stdout.write(chunk.choices[0].delta.content or "")
            sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
