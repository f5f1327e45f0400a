"""Asks Patroni's own QuorumStateResolver, so that nothing about it is taken from memory.

    plans VIEWS PLANS   the plan for each view of the JSON file VIEWS, written to PLANS in the same order
    hole                Patroni's hole, step by step, as JSON: an acknowledged write, then a /sync that needs nobody
                        who has it

Run with the Python of the lab, in which Patroni 4.1 is installed. Called by tests/src/model/resolver.rs.
"""

import json
import logging
import sys

from patroni.exceptions import PatroniException
from patroni.quorum import QuorumStateResolver

# The resolver complains of each broken view that it is shown; most of these views were made up.
logging.disable(logging.CRITICAL)


def plan(view):
    """What Patroni would do, in order; nothing when it gives up."""
    resolver = QuorumStateResolver(
        leader=view["leader"],
        quorum=view["quorum"],
        voters=list(view["voters"]),
        numsync=view["count"],
        sync=list(view["names"]),
        numsync_confirmed=view["confirmed"],
        active=list(view["active"]),
        sync_wanted=view["wanted"],
        leader_wanted=view["me"],
    )
    try:
        changes = list(resolver)
    except (PatroniException, AssertionError):
        return []
    return [
        ("restart", 0, "") if change.transition_type == "restart"
        else (change.transition_type, change.num, "".join(sorted(change.names)))
        for change in changes
    ]


def hole():
    """b flushes a write, which is acknowledged; then b's connection goes. c has received nothing."""
    view = {"leader": "a", "me": "a", "quorum": 1, "voters": "bc", "count": 1, "names": "bc",
            "confirmed": 2, "active": "bc", "wanted": 1}
    steps = []

    def note(what):
        steps.append({"what": what, "quorum": view["quorum"], "voters": sorted(view["voters"]), "flushed": ["b"]})

    note("b flushes, the write is acknowledged under ANY 1 (b, c)")
    view.update(active="c", confirmed=1)
    for kind, number, names in plan(view):
        if kind == "quorum":
            view.update(quorum=number, voters=names)
            note(f"/sync becomes {names} with quorum {number}")
        elif kind == "sync":
            view.update(count=number, names=names)
            note(f"synchronous_standby_names becomes ANY {number} ({names})")
    return steps


def main():
    """See the module's text."""
    if sys.argv[1] == "plans":
        with open(sys.argv[2], encoding="utf-8") as views, open(sys.argv[3], "w", encoding="utf-8") as plans:
            json.dump([plan(view) for view in json.load(views)], plans)
    elif sys.argv[1] == "hole":
        print(json.dumps(hole()))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
