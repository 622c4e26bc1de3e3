"""A stand-in for the egress sidecar of OpenSandbox, for tests.

The server starts it with the policy and a token in its environment; the sandbox container then joins
its network namespace and shares its `/etc/hosts`. In the mode `dns+nft` the policy is enforced by
nftables: loopback and replies pass, addresses and networks by rule, exact names by the addresses they
have when the policy is set. No query leaves for a name server, so allowed names are written to
`/etc/hosts`. Wildcards cannot be enforced this way and `reason` says so. In the mode `dns` nothing is
enforced at all, and `enforcementMode` is `none`.
"""

import hmac
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = os.environ.get("OPENSANDBOX_EGRESS_MODE", "dns")
TOKEN = os.environ.get("OPENSANDBOX_EGRESS_TOKEN", "")
MARK = "# egress policy\n"
# A reset ends a connection attempt at once; after an unreachable host the kernel tries again.
VERDICTS = {"allow": ["accept"], "deny": ["meta l4proto tcp reject with tcp reset", "reject"]}
# A table must exist to be deleted; the three statements are one transaction.
RULESET = """
add table inet opensandbox
delete table inet opensandbox
table inet opensandbox {
    chain output {
        type filter hook output priority 0;
        %s
    }
}
"""


class Refused(Exception):
    """A policy that makes no sense; the text goes to the client."""


def parse_policy(value):
    """The policy with its defaults filled in. An empty one denies everything."""
    value = value or {}
    policy = {"defaultAction": value.get("defaultAction") or "deny", "egress": value.get("egress") or []}
    actions = [policy["defaultAction"], *(rule.get("action") for rule in policy["egress"])]
    if any(action not in ("allow", "deny") for action in actions):
        raise Refused("action must be allow or deny")
    if any(not rule.get("target") for rule in policy["egress"]):
        raise Refused("target must not be empty")
    return policy


def mode_of(policy):
    if policy["egress"]:
        return "enforcing"
    return f"{policy['defaultAction']}_all"


def networks(target):
    """The networks that a target stands for: itself, or the addresses of a name."""
    try:
        return [ipaddress.ip_network(target, strict=False)]
    except ValueError:
        found = socket.getaddrinfo(target, None, type=socket.SOCK_STREAM)
        return [ipaddress.ip_network(address[4][0]) for address in found]


def enforce(policy):
    """Replaces the rules of the kernel in one transaction; returns what could not be enforced."""
    lines, hosts, problems = ["oif lo accept", "ct state established,related accept"], [], []
    for rule in policy["egress"]:
        target = rule["target"]
        if target.startswith("*."):
            problems.append(f"{target}: wildcards are not enforced")
            continue
        try:
            found = networks(target)
        except OSError as error:
            problems.append(f"{target}: {error.strerror}")
            continue
        for network in found:
            family = "ip" if network.version == 4 else "ip6"
            lines += [f"{family} daddr {network} {verdict}" for verdict in VERDICTS[rule["action"]]]
            if rule["action"] == "allow" and str(network.network_address) != target.split("/")[0]:
                hosts.append(f"{network.network_address} {target}\n")
    lines += VERDICTS[policy["defaultAction"]]
    subprocess.run(["nft", "-f", "-"], input=RULESET % "\n".join(lines), text=True, check=True)
    write_hosts(hosts)
    return problems


def write_hosts(lines):
    """Docker mounts this file, so it must be changed in place."""
    with open("/etc/hosts", "r+") as file:
        kept = file.read().partition(MARK)[0]
        file.seek(0)
        file.write(kept + MARK + "".join(lines))
        file.truncate()


class Policy:
    def __init__(self, value):
        self.set(value)

    def set(self, value):
        policy = parse_policy(value)
        self.problems = enforce(policy) if MODE == "dns+nft" else ["nothing is enforced in the mode dns"]
        self.policy = policy

    def merge(self, rules):
        """Later rules replace those of the same target, in place."""
        merged = {rule["target"]: rule for rule in self.policy["egress"]}
        merged.update({rule["target"]: rule for rule in rules})
        self.set({**self.policy, "egress": list(merged.values())})

    def remove(self, targets):
        kept = [rule for rule in self.policy["egress"] if rule["target"] not in targets]
        self.set({**self.policy, "egress": kept})

    def status(self):
        status = {
            "status": "ok",
            "mode": mode_of(self.policy),
            "enforcementMode": MODE if MODE == "dns+nft" else "none",
            "policy": self.policy,
        }
        if self.problems:
            status["reason"] = "; ".join(self.problems)
        return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "ok")
        self.change(lambda _: None)

    def do_POST(self):
        self.change(policy.set)

    do_PUT = do_POST

    def do_PATCH(self):
        self.change(policy.merge)

    def do_DELETE(self):
        self.change(policy.remove)

    def change(self, action):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0] != "/policy":
            return self.answer(404, "not found")
        if TOKEN and not hmac.compare_digest(self.headers.get("OPENSANDBOX-EGRESS-AUTH") or "", TOKEN):
            return self.answer(401, "unauthorized")
        try:
            action(json.loads(body) if body.strip() else None)
        except (Refused, ValueError, TypeError, KeyError, AttributeError) as error:
            return self.answer(400, f"invalid policy: {error}")
        self.answer(200, json.dumps(policy.status()), "application/json")

    def answer(self, status, text, content_type="text/plain"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    # The first process of a container has no default action for signals.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    policy = Policy(json.loads(os.environ.get("OPENSANDBOX_EGRESS_RULES") or "{}"))
    ThreadingHTTPServer(("0.0.0.0", 18080), Handler).serve_forever()
