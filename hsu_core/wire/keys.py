"""Every key of the store, with its single writer.

| key under `/hsu/`                          | value          | writer                                   |
|--------------------------------------------|----------------|------------------------------------------|
| `cluster`                                  | ClusterRecord  | first master; leader; API (acceptance)   |
| `leader`                                   | MasterAdvert   | election (leased)                        |
| `deposed-leader`                           | term and TTL   | who deposes; the next leader deletes it  |
| `masters/<name>`                           | MasterAdvert   | that master (leased)                     |
| `tokens/<id>`                              | TokenRecord    | API                                      |
| `apps/<ns>/<app>`                          | AppRecord      | API (compare-and-set)                    |
| `revisions/<ns>/<app>/<number>`            | Revision       | API (created once)                       |
| `removed/<ns>/<app>`                       | RevisionFloor  | API: numbers of a removed app stay used  |
| `idempotency/<hash>`                       | Idempotency    | API in the change's txn; leader trims    |
| `node-intents/<node>`                      | NodeIntent     | API (compare-and-set)                    |
| `nodes/<node>`                             | NodeRecord     | leader: node hub (fenced)                |
| `assignments/<ns>/<app>/<worker>/<slot>`   | Assignment     | leader: planner loop (fenced)            |
| `status/<ns>/<app>/<worker>/<slot>/<node>` | InstanceStatus | leader: node hub (fenced)                |
| `plan`                                     | empty          | leader: planner loop (fenced), each plan |
| `rollouts/<ns>/<app>`                      | Rollout        | leader: planner loop (fenced)            |
| `runs/<ns>/<app>/<id>`                     | AnalysisRun    | leader: planner and measurer (fenced)    |
| `routes/<ns>/<app>/<route>`                | RouteState     | leader: traffic (fenced)                 |
| `rebalance/intent`                         | RebalanceIntent | API (compare-and-set)                   |
| `rebalance/state`                          | Rebalance      | leader: planner loop (fenced)            |
| `events/<time>-<sequence>`                 | EventRecord    | whoever writes the change, in its txn    |

Numbers are zero-padded, so that key order is number order. Names hold no slash, so parts are unambiguous.
"""

from __future__ import annotations

from hsu_core.model.errors import Bug
from hsu_core.model.ids import AppId, InstanceId

ROOT = "/hsu/"
CLUSTER = ROOT + "cluster"
LEADER = ROOT + "leader"
PLAN = ROOT + "plan"
MASTERS = ROOT + "masters/"
TOKENS = ROOT + "tokens/"
APPS = ROOT + "apps/"
REVISIONS = ROOT + "revisions/"
NODE_INTENTS = ROOT + "node-intents/"
NODES = ROOT + "nodes/"
ASSIGNMENTS = ROOT + "assignments/"
STATUS = ROOT + "status/"
ROLLOUTS = ROOT + "rollouts/"
RUNS = ROOT + "runs/"
ROUTES = ROOT + "routes/"
EVENTS = ROOT + "events/"
IDEMPOTENCY = ROOT + "idempotency/"
REMOVED = ROOT + "removed/"
REBALANCE = ROOT + "rebalance/"
REBALANCE_INTENT = REBALANCE + "intent"
REBALANCE_STATE = REBALANCE + "state"


def master(name: str) -> str:
    """Return the key of a master's advert."""
    return MASTERS + name


def token(token_id: str) -> str:
    """Return the key of a token record."""
    return TOKENS + token_id


def apps(namespace: str) -> str:
    """Return the prefix of a namespace's apps."""
    return f"{APPS}{namespace}/"


def app(app_id: AppId) -> str:
    """Return the key of an app record."""
    return f"{APPS}{app_id.namespace}/{app_id.app}"


def revisions(app_id: AppId) -> str:
    """Return the prefix of an app's revisions."""
    return f"{REVISIONS}{app_id.namespace}/{app_id.app}/"


def revision(app_id: AppId, number: int) -> str:
    """Return the key of one revision."""
    return f"{revisions(app_id)}{number:010d}"


def node(name: str) -> str:
    """Return the key of a node record."""
    return NODES + name


def node_intent(name: str) -> str:
    """Return the key of what people asked of a node."""
    return NODE_INTENTS + name


def assignments(app_id: AppId) -> str:
    """Return the prefix of an app's assignments."""
    return f"{ASSIGNMENTS}{app_id.namespace}/{app_id.app}/"


def assignment(instance: InstanceId) -> str:
    """Return the key of a slot's assignment."""
    return f"{assignments(instance.app_id)}{instance.worker}/{instance.slot:05d}"


def statuses(app_id: AppId) -> str:
    """Return the prefix of an app's statuses."""
    return f"{STATUS}{app_id.namespace}/{app_id.app}/"


def status(instance: InstanceId, node_name: str) -> str:
    """Return the key of what one node observed of a slot."""
    return f"{statuses(instance.app_id)}{instance.worker}/{instance.slot:05d}/{node_name}"


def rollout(app_id: AppId) -> str:
    """Return the key of an app's rollout."""
    return f"{ROLLOUTS}{app_id.namespace}/{app_id.app}"


def run(app_id: AppId, run_id: str) -> str:
    """Return the key of an analysis run."""
    return f"{RUNS}{app_id.namespace}/{app_id.app}/{run_id}"


def route(app_id: AppId, name: str) -> str:
    """Return the key of what the provider of a route has confirmed."""
    return f"{ROUTES}{app_id.namespace}/{app_id.app}/{name}"


def event(at_s: float, sequence: str) -> str:
    """Return the key of an event: sorted by time (milliseconds since 1970), unique by `sequence`."""
    return f"{EVENTS}{round(at_s * 1000):015d}-{sequence}"


def parts(key: str) -> list[str]:
    """Return the parts of a key after the root: `["apps", "default", "shop"]`."""
    if not key.startswith(ROOT):
        raise Bug(f"read store key {key!r}", f"it does not begin with {ROOT}")
    return key[len(ROOT) :].split("/")
