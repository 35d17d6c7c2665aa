"""The app of a small bank with projections, as the text of a module."""

APP = """
    import logging
    import os
    import time

    from leftfold import App, Codec, Consumer, Projection, SqlProjection
    from msgspec import Struct
    from msgspec.structs import replace


    class Opened(Struct, frozen=True):
        owner: str


    class Deposited(Struct, frozen=True):
        cents: int


    class Balance(Struct, frozen=True):
        account: str
        owner: str = ""
        cents: int = 0


    def opened(row, event):
        return replace(row, owner=event.data.owner)


    def deposited(row, event):
        if event.data.cents == 13:
            raise ValueError("thirteen")
        return replace(row, cents=row.cents + event.data.cents * FACTOR)


    FACTOR = int(os.environ.get("FACTOR", "1"))
    ON_FAILURE = os.environ.get("ON_FAILURE", "stop")
    balances = Projection(
        name="balances",
        row=Balance,
        key=lambda event: event.stream,
        evolve={Opened: opened, Deposited: deposited},
        version=FACTOR,
        on_failure=ON_FAILURE,
        attempts_max=1,
    )
    def numbered_key(event):
        return event.position, 0


    class Numbered(Struct, frozen=True):
        number: int
        part: int
        cents: int = 0


    numbered = Projection(
        name="numbered", row=Numbered, key=numbered_key, evolve={Deposited: deposited},
        on_failure=ON_FAILURE, attempts_max=1,
    )
    lively = Projection(
        name="lively", row=Balance, key=lambda event: event.stream, evolve={Opened: opened},
        mode="live",
    )
    mails = Consumer(name="mails", handle=lambda event: None)
    codec = Codec(Opened, Deposited)
    app = App(codec=codec, projections=[balances, lively], consumers=[mails])
    empty = App(codec=codec)
    only_live = App(codec=codec, projections=[lively])
    counted = App(codec=codec, projections=[numbered])


    def create(sql):
        raise KeyError("no")


    def handle(event):
        logging.getLogger("leftfold").info("handling")
        time.sleep(120)


    mine = SqlProjection(name="broken", create=create, apply=lambda sql, events: None)
    broken = App(codec=codec, projections=[mine])
    slow = App(codec=codec, consumers=[Consumer(name="slow", handle=handle)])
"""
