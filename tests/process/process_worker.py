"""A process that runs the transfers of a log for as long as it lives: process_worker.py URL"""

from __future__ import annotations

import sys

import process_bank as bank

import leftfold
from leftfold.projection import catalog, running

LEASE_S = 0.5


def main(url: str) -> None:
    catalog.LEASE_S = running.LEASE_S = LEASE_S
    with leftfold.open(url, bank.app_of()) as es, es.running():
        print("running", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
