"""
Calls methods of the control service with an empty request, as whoever runs this:

    python ask_control.py SOCKET METHOD…    prints {METHOD: [CODE, MESSAGE, what came, in hex]} as JSON
"""

import json
import sys

import grpc


def ask(channel, method):
    # As a stream of answers, which a single one is too.
    call = channel.unary_stream(f"/stokehold.control.v1.Control/{method}")(b"", timeout=30)
    answers = []
    try:
        answers.extend(call)
    except grpc.RpcError:
        pass
    return [call.code().name, call.details(), b"".join(answers).hex()]


def main():
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        print(json.dumps({method: ask(channel, method) for method in sys.argv[2:]}))


if __name__ == "__main__":
    main()
