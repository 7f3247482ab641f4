"""The one writer of `bank.py`: counts up, with the fencing token that the agent gave it. Ends when it was replaced."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request


def main() -> int:
    """Write once a second; return 3 once another writer has taken over."""
    url, token = sys.argv[1], os.environ["HSU_FENCING_TOKEN"]
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                balance = json.load(answer)["balance"] + 1
            body = json.dumps({"balance": balance}).encode()
            request = urllib.request.Request(url, body, {"Fencing-Token": token}, method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
            print(f"balance {balance}, token {token}", flush=True)
        except urllib.error.HTTPError as error:
            if error.code == 409:
                print(f"replaced: {json.load(error)['error']}", file=sys.stderr)
                return 3
            print(f"the bank answers {error.code}", file=sys.stderr)
        except OSError as error:
            print(f"the bank does not answer: {error}", file=sys.stderr)
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
