"""Asks Patroni's own classes, without any server, for the facts that the protocol rests on.

Prints one JSON object: Patroni's version and a list of {fact, holds, evidence}. `holds` is null when a version cannot be
asked that way: then the evidence says why. Run with the Python of the version's environment, called by
tests/src/contract/asked.rs; the names of the facts are those of tests/src/contract/fact.rs.
"""

import base64
import itertools
import json
import logging
import sys
import threading
import time
from types import SimpleNamespace
from unittest import mock

from patroni import global_config, thread_pool
from patroni.dcs import AbstractDCS, SyncState
from patroni.dcs.etcd3 import Etcd3
from patroni.ha import Ha, _MemberStatus
from patroni.postgresql import Postgresql
from patroni.postgresql.cancellable import CancellableSubprocess
from patroni.postgresql.postmaster import PostmasterProcess
from patroni.postgresql.rewind import Rewind
from patroni.quorum import QuorumError, QuorumStateResolver
from patroni.version import __version__
from patroni.watchdog.base import WatchdogConfig

logging.disable(logging.CRITICAL)

TTL_S = 30
FACTS = []


def fact(function):
    """Puts a question into the list, under its name."""
    FACTS.append((function.__name__.replace("_", "-"), function))
    return function


def configure(**settings):
    """Makes these the dynamic configuration."""
    data = {"ttl": TTL_S, "loop_wait": 10, "synchronous_mode": "quorum", **settings}
    global_config.update(SimpleNamespace(config=SimpleNamespace(modify_version=1, data=data)))


def member(name, **fields):
    """Another member, as the store names it."""
    return SimpleNamespace(name=name, api_url=f"http://{name}/patroni", nofailover=False, data={}, **fields)


def node(name, sync=None, timeline=2, own_timeline=2, **settings):
    """Patroni's state machine on a standby; everything around it is made up."""
    configure(**settings)
    ha = Ha(mock.MagicMock())
    ha.state_handler.name = name
    ha.state_handler.role = "replica"
    ha.state_handler.state = "running"
    ha.state_handler.sysid = "7"
    ha.state_handler.is_primary.return_value = False
    ha.state_handler.is_starting.return_value = False
    ha.state_handler.replica_cached_timeline.return_value = own_timeline
    ha.state_handler.last_operation.return_value = 100
    ha.state_handler.supports_multiple_sync = True
    ha.state_handler.bootstrapping = False
    ha.patroni.nofailover = False
    ha.patroni.failover_priority = 1
    ha.dcs.ttl = TTL_S
    ha.dcs.loop_wait = 10
    ha.is_lagging = lambda _position: False
    members = [member(other) for other in "abcd"]
    ha.cluster = SimpleNamespace(
        sync=SyncState.from_node(5, sync), failover=None, timeline=timeline, members=members, initialize="7",
        leader=None, history=None, is_unlocked=lambda: True, config=None)
    ha.old_cluster = SimpleNamespace(members=list(members), leader=None)
    return ha


def answer(name, position, in_recovery=True):
    """What another member says over its REST API."""
    return _MemberStatus(member(name), True, in_recovery, position, {})


SYNC = {"leader": "a", "sync_standby": "b,c", "quorum": 1}


def subsets(names):
    """Every set of them."""
    return [set(some) for size in range(len(names) + 1) for some in itertools.combinations(names, size)]


@fact
def quorum_invariant():
    """The state that Patroni allows is the one that rule 1 asks for."""
    looked = 0
    for voters, names in itertools.product(subsets("bcd"), repeat=2):
        for quorum, count, leader in itertools.product(range(4), range(len(names) + 1), "ab"):
            resolver = QuorumStateResolver(
                leader=leader, quorum=quorum, voters=voters, numsync=count, sync=names, numsync_confirmed=0,
                active=names, sync_wanted=1, leader_wanted="a")
            try:
                resolver.check_invariants()
                allowed = True
            except QuorumError:
                allowed = False
            counted, waited = voters | {leader}, names | {"a"}
            fits = (not voters or len(counted | waited) <= quorum + count + 1) and (
                counted <= waited or waited <= counted)
            looked += 1
            if allowed != fits:
                return False, f"voters {voters} names {names} quorum {quorum} count {count}: allowed is {allowed}"
    return True, f"{looked} states"


@fact
def gone_nodes_unchecked():
    """Whoever is gone leaves /sync though the rest may not have what it acknowledged."""
    resolver = QuorumStateResolver(
        leader="a", quorum=1, voters=["b", "c"], numsync=1, sync=["b", "c"], numsync_confirmed=1, active=["c"],
        sync_wanted=1, leader_wanted="a")
    steps = [(step.transition_type, step.num, "".join(sorted(step.names))) for step in resolver]
    return ("quorum", 0, "c") in steps, f"b is gone: {steps}"


@fact
def setting_before_hook():
    """The setting is made from the cached /sync, and before the promotion that calls the hook is begun."""
    ha = node("b", SYNC)
    ha.watchdog.is_running = True
    order = mock.MagicMock()
    ha.state_handler.sync_handler = order.handler
    ha._async_executor = order.executor
    ha.enforce_primary_role("leads", "promotes")
    calls = [call[0] for call in order.mock_calls]
    wanted = ["handler.set_synchronous_standby_names", "executor.try_run_async"]
    return calls == wanted and not ha.dcs.get_cluster.called, f"in this order: {calls}"


@fact
def setting_from_sync():
    """How many acknowledgements a new leader asks for, from inside and from outside of /sync."""
    found = []
    for name in ("b", "d"):
        ha = node(name, SYNC)
        if not ha.process_sync_replication_prepromote():
            return False, f"{name} does not go on"
        names, count = ha.state_handler.sync_handler.set_synchronous_standby_names.call_args[0]
        found.append((name, sorted(names), count))
        if ha.dcs.write_sync_state.called:
            return False, f"{name} writes /sync before the hook"
    return found == [("b", ["a", "c"], 1), ("d", ["a", "b", "c"], 2)], f"{found}; /sync is not written"


@fact
def mode_on_writes_sync_first():
    """With synchronous_mode on, /sync is written before the hook."""
    ha = node("b", SYNC, synchronous_mode=True)
    ha.dcs.write_sync_state.return_value = None
    went_on = ha.process_sync_replication_prepromote()
    wrote = ha.dcs.write_sync_state.called
    return wrote and not went_on, f"writes /sync: {wrote}; goes on if that fails: {went_on}"


@fact
def old_leader_votes():
    """The vote of the leader that is named in /sync counts."""
    ha = node("b", SYNC)
    ha.fetch_nodes_statuses = lambda members: [answer("a", 50)]
    with_leader = ha.is_healthiest_node()
    ha.fetch_nodes_statuses = lambda members: []
    alone = ha.is_healthiest_node()
    return with_leader and not alone, f"with the old leader's vote: {with_leader}; with none: {alone}"


@fact
def asks_only_sync():
    """A candidate asks those that /sync names and nobody else."""
    ha = node("b", SYNC)
    asked = []
    ha.fetch_nodes_statuses = lambda members: asked.extend(sorted({one.name for one in members})) or []
    ha.is_healthiest_node()
    return asked == ["a", "c"], f"of a, b, c, d, where d is not in /sync, b asks {asked}"


@fact
def timeline_unchecked():
    """Without check_timeline a candidate on an older timeline takes part."""
    found = []
    for settings in ({}, {"check_timeline": True}):
        ha = node("b", SYNC, timeline=3, own_timeline=2, **settings)
        ha.fetch_nodes_statuses = lambda members: [answer("a", 50), answer("c", 50)]
        found.append(ha.is_healthiest_node())
    return found == [True, False], f"takes part: {found[0]}; with check_timeline: {found[1]}"


class Store(Etcd3):
    """Patroni's way to etcd, with something made up in the place of etcd's client."""

    _client = None


def store(lease="7"):
    """One whose lease is this."""
    dcs = Store.__new__(Store)
    dcs._name, dcs._lease, dcs._client, dcs._retry = "b", lease, mock.MagicMock(), mock.MagicMock()
    dcs._base_path, dcs._do_refresh_lease, dcs._has_failed = "/service/main", mock.MagicMock(), False
    dcs._mpp = mock.MagicMock(group=None)
    dcs._mpp.is_enabled.return_value = False
    dcs.retry = lambda function, *arguments, **words: function(*arguments, **words)
    dcs._run_and_handle_exceptions = lambda function, *arguments, **words: function(
        *arguments, **{key: value for key, value in words.items() if key != "retry"})
    return dcs


def text(value):
    """A value of etcd's JSON gateway."""
    return base64.b64decode(value).decode()


@fact
def lock_renewed_unseen():
    """A holder whose lease is unchanged renews without looking at the key."""
    dcs = store()
    renewed = dcs._update_leader(SimpleNamespace(session="7"))
    looked = dcs._client.txn.called or dcs._client.put.called
    return renewed is True and not looked, f"renewed: {renewed}; looked at the key: {looked}"


@fact
def lock_recreated():
    """With a new lease it takes the key if it is its own, or absent."""
    dcs = store()
    dcs._client.txn.return_value = {"succeeded": True}
    dcs._update_leader(SimpleNamespace(session="6"))
    compare, _put, otherwise = dcs._client.txn.call_args[0]
    absent = otherwise["request_txn"]["compare"][0]
    held = compare["target"] == "VALUE" and text(compare["value"]) == "b"
    return held and absent["target"] == "CREATE" and absent["create_revision"] == "0", f"{compare}, else {absent}"


@fact
def lock_deleted_if_own():
    """Only an own leader key is deleted."""
    dcs = store()
    dcs._delete_leader(mock.MagicMock())
    compare = dcs._client.txn.call_args[0][0]
    return compare["target"] == "VALUE" and text(compare["value"]) == "b", f"compares {compare['target']} with b"


@fact
def sync_by_revision():
    """/sync is written only on top of the revision that was read, so that a put by another makes it fail."""
    dcs = store()
    dcs._client.put.return_value = {"header": {"revision": "9"}}
    dcs.write_sync_state("b", ["c"], 0, version="5")
    arguments = dcs._client.put.call_args
    fields = AbstractDCS.sync_state("a", ["c", "b"], 1)
    shape = fields == {"leader": "a", "quorum": 1, "sync_standby": "b,c"}
    return shape and arguments[1].get("mod_revision") == "5", f"{json.dumps(fields)}, compares revision {arguments[1]}"


@fact
def primary_takes_free_lock():
    """A running primary takes a free lock unless /history knows a later timeline; in a pause also then."""
    found = []
    for own, settings in ((3, {}), (2, {}), (2, {"pause": True})):
        ha = node("a", SYNC, timeline=3, **settings)
        ha.state_handler.is_primary.return_value = True
        ha.state_handler.get_primary_timeline.return_value = own
        found.append(ha.is_healthiest_node())
    return found == [True, False, True], f"timeline as in /history {found[0]}, older {found[1]}, older in a pause {found[2]}"


def promote(role="replica", hook=True, cancelled=False):
    """The steps of a promotion, as calls."""
    postgres, task = mock.MagicMock(), mock.MagicMock()
    postgres.role, postgres._pre_promote.return_value = role, hook
    postgres.cancellable.is_cancelled, task.is_cancelled = False, cancelled
    result = Postgresql.promote(postgres, 10, task, None)
    wanted = ("_pre_promote", "pg_ctl")
    return result, [call[0] for call in postgres.mock_calls if call[0] in wanted]


@fact
def promotes_after_hook():
    """pg_ctl promote follows the hook, and only its success; a lock that was lost meanwhile cancels it."""
    good, refused, lost = promote(), promote(hook=False), promote(cancelled=True)
    holds = good[1] == ["_pre_promote", "pg_ctl"] and refused == (False, ["_pre_promote"]) and lost == (
        False, ["_pre_promote"])
    return holds, f"success {good[1]}; refused {refused[1]}; lock lost {lost[1]}: nothing asks for the lock in between"


@fact
def no_hook_for_a_primary():
    """Whoever is primary already is not asked."""
    result, calls = promote(role="primary")
    return result is True and calls == [], f"calls: {calls}"


@fact
def hook_exit_code():
    """0 lets the promotion go on; anything else, or a hook that cannot be started, does not."""
    found = []
    for code in (0, 1, -15, None):
        postgres = mock.MagicMock()
        postgres.config.get.return_value = "/bin/gate --scope main"
        postgres.cancellable.call.return_value = code
        found.append(Postgresql._pre_promote(postgres))
    words = postgres.cancellable.call.call_args[0][0]
    return found == [True, False, False, False] and words == ["/bin/gate", "--scope", "main"], (
        f"0, 1, signal, none: {found}; no shell: {words}")


@fact
def hook_ends_by_sigterm():
    """What is cancelled gets SIGTERM and nothing else."""
    process, code = CancellableSubprocess(), []
    thread = threading.Thread(target=lambda: code.append(process.call(["sleep", "20"])))
    thread.start()
    until = time.time() + 5
    while process._process is None and time.time() < until:
        time.sleep(0.01)
    process.cancel()
    thread.join(10)
    return code == [-15], f"its end: {code}"


@fact
def lost_lock_ends_hook():
    """A lock that is lost while the hook runs cancels the promotion, and once the hook has returned it does not."""
    found = []
    for returned in (False, True):
        ha = node("b", SYNC)
        ha.has_lock = lambda *_: False
        ha._async_executor = mock.MagicMock(scheduled_action="promote")
        if returned:
            with ha._async_response:
                ha._async_response.complete(True)
        ha.handle_long_action_in_progress()
        found.append(ha.state_handler.cancellable.cancel.called)
    return found == [True, False], f"during the hook: cancelled {found[0]}; after it: {found[1]}"


@fact
def refused_is_out_for_one_ttl():
    """A hook that failed gives the lock back, and its node takes no part for one ttl."""
    ha = node("b", SYNC)
    ha.watchdog.is_running = True
    ha.release_leader_key_voluntarily = mock.MagicMock()
    with ha._async_response:
        ha._async_response.complete(False)
    ha.enforce_primary_role("leads", "promotes")
    gave_back = ha.release_leader_key_voluntarily.called
    ha.fetch_nodes_statuses = lambda members: [answer("a", 50), answer("c", 50)]
    at_once = ha.is_healthiest_node()
    ha._released_leader_key_timestamp -= TTL_S + 1
    later = ha.is_healthiest_node()
    return gave_back and not at_once and later, f"gives back {gave_back}; takes part {at_once}, after one ttl {later}"


@fact
def failsafe_asks_all():
    """Without etcd a primary goes on only if everybody answers whom /failsafe names."""
    found = []
    for silent, names in ((None, "abc"), ("c", "abc"), (None, "bc")):
        ha = node("a", SYNC)
        ha.dcs.failsafe = {name: f"http://{name}" for name in names}
        ha.call_failsafe_member = lambda data, one: SimpleNamespace(
            accepted=one.name != silent, member_name=one.name, lsn=None)
        found.append(ha.check_failsafe_topology())
    return found == [True, False, False], f"all answer {found[0]}; one does not {found[1]}; itself not named {found[2]}"


@fact
def failsafe_takes_any_caller():
    """A standby says yes to whoever calls; only a running primary says no."""
    found = []
    for role in ("replica", "primary"):
        ha = node("b", SYNC)
        ha.state_handler.role = role
        ha._failsafe = mock.MagicMock()
        found.append(ha.update_failsafe({"name": "x"}))
    return found == [None, "Running as a leader"], f"standby says {found[0]}, primary {found[1]!r}"


@fact
def reinit_of_synchronous():
    """A reinit does not wait until the node is no synchronous standby; a restart does."""
    ha = node("b", SYNC)
    ha.load_cluster_from_dcs = mock.MagicMock()
    ha.cluster.is_unlocked = lambda: False
    ha.has_lock = lambda *_: False
    ha.while_not_sync_standby = mock.MagicMock(side_effect=lambda function: True)
    ha._async_executor = mock.MagicMock()
    ha._async_executor.schedule.return_value = None
    ha._async_executor.run.side_effect = lambda function: function()
    refused = ha.reinitialize()
    waited = ha.while_not_sync_standby.called
    ha.restart_matches = lambda *_: True
    ha.restart({})
    return refused is None and not waited and ha.while_not_sync_standby.called, (
        f"reinit refused: {refused}, waits: {waited}; restart waits: {ha.while_not_sync_standby.called}")


@fact
def named_candidate_unchecked():
    """The node that /failover names takes the lock without asking anybody."""
    ha = node("b", SYNC)
    ha.cluster.failover = SimpleNamespace(candidate="b", leader=None, scheduled_at=None, version=1)
    ha.fetch_nodes_statuses = mock.MagicMock()
    ha.fetch_node_status = mock.MagicMock()
    led = ha.manual_failover_process_no_leader()
    asked = ha.fetch_nodes_statuses.called or ha.fetch_node_status.called
    return led is True and not asked, f"takes it: {led}; asked anybody: {asked}"


@fact
def bin_name_is_a_path():
    """bin_name.postgres may be a path of its own, and single-user mode goes through it too."""
    postgres = SimpleNamespace(config={"bin_name": {"postgres": "/x/postgres"}}, _bin_dir="/usr/lib/pg/bin")
    found = [Postgresql.pgcommand(postgres, name) for name in ("postgres", "pg_ctl")]
    rewind = mock.MagicMock()
    rewind._postgresql.pgcommand.side_effect = lambda name: Postgresql.pgcommand(postgres, name)
    Rewind.single_user_mode(rewind)
    alone = rewind._postgresql.cancellable.call.call_args[0][0][:2]
    return found == ["/x/postgres", "/usr/lib/pg/bin/pg_ctl"] and alone == ["/x/postgres", "--single"], (
        f"{found}, alone {alone}")


@fact
def old_postmaster_pid():
    """A postmaster whose pid file is more than 3 s younger than its process is not taken for one."""
    found = []
    for late in (3, 4):
        process = mock.MagicMock(pid=99999, _postmaster_pid={"start_time": str(100 + late)})
        process.create_time.return_value = 100
        process.ppid.return_value = 1
        found.append(PostmasterProcess._is_postmaster_process(process))
    return found == [True, False], f"3 s: {found[0]}; 4 s: {found[1]}"


@fact
def names_without_case():
    """Names are compared without case."""
    sync = SyncState.from_node(1, {"leader": "A", "sync_standby": "Db.1", "quorum": 0})
    found = sync.matches("dB.1") and sync.leader_matches("a")
    return found, "A is a, Db.1 is dB.1"


@fact
def watchdog_by_default():
    """Without a word of the configuration Patroni opens the watchdog if there is one."""
    mode = WatchdogConfig({"ttl": TTL_S, "loop_wait": 10}).mode
    return mode == "automatic", f"mode {mode}"


def main():
    """See the module's text."""
    thread_pool.configure_global_pool(2)
    found = []
    for name, ask in FACTS:
        try:
            holds, evidence = ask()
        except Exception as error:  # Whatever a version lacks: it is told, and the others are asked.
            holds, evidence = None, f"{type(error).__name__}: {error}"
        found.append({"fact": name, "holds": None if holds is None else bool(holds), "evidence": evidence})
    json.dump({"version": __version__, "facts": found}, sys.stdout)


if __name__ == "__main__":
    main()
