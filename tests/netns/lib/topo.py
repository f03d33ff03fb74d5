"""The networks of the tests: a line of hosts, and the same with both daemons on one host.

    client 10.1.0.2 ── agent 10.1.1.2 ── firewall 10.1.1.1 | 192.0.2.1 ── server 192.0.2.10
    client fd01::2  ── agent fd02::2  ── firewall fd02::1  | fd03::1   ── server fd03::10

On one host the firewall has the client's network itself (10.1.0.1, fd01::1) and runs the agent.
"""

from .net import Net

CLIENT, CLIENT_NET, CLIENT6, CLIENT_NET6 = "10.1.0.2", "10.1.0.0/24", "fd01::2", "fd01::/64"
AGENT, AGENT6 = "10.1.1.2", "fd02::2"
INSIDE, INSIDE6 = "10.1.1.1", "fd02::1"
OUTSIDE, OUTSIDE6 = "192.0.2.1", "fd03::1"
SERVER, SERVER6 = "192.0.2.10", "fd03::10"
NEIGHBOUR = "192.0.2.66"  # another host in the server's network

# A site's firewall without Sluice: RTSP control may pass, nothing else.
PLAIN_FIREWALL = """
table inet site {
	counter dropped { }
	chain forward {
		type filter hook forward priority filter; policy drop;
		meta l4proto tcp ct state established accept
		iifname "in" tcp dport 554 accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		counter name dropped drop
	}
}
"""

# Hands the clients' RTSP connections to the agent, and the servers' replies to
# connections that the agent made with a client's address.
INTERCEPT = """
table inet intercept {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto tcp socket transparent 1 meta mark set 0x1 accept
		iifname "%s" meta nfproto ipv4 tcp dport 554 tproxy ip to 127.0.0.1:554 meta mark set 0x1 accept
		iifname "%s" meta nfproto ipv6 tcp dport 554 tproxy ip6 to [::1]:554 meta mark set 0x1 accept
	}
}
"""


def intercept(ns, dev):
    """What the manual tells an administrator to do on the agent's host."""
    for family in ("-4", "-6"):
        ns.ip(family, "rule", "add", "fwmark", "0x1", "lookup", "100")
        everything = "0.0.0.0/0" if family == "-4" else "::/0"
        ns.ip(family, "route", "add", "local", everything, "dev", "lo", "table", "100")
    ns.nft(INTERCEPT % (dev, dev))


class Line(Net):
    """Client, agent host, firewall, server. `translated`: nobody outside has a route inwards."""

    one_host = False

    def __init__(self, tag="", translated=False):
        super().__init__(tag)
        try:
            self.build(translated)
        except BaseException:
            self.close()
            raise

    def build(self, translated):
        self.client, self.server = self.ns("client"), self.ns("server")
        self.fw = self.ns("fw")
        self.fw.forwarding()
        if self.one_host:
            self.agent = self.fw
            self.link(self.client, "eth0", self.fw, "in")
            self.fw.address("in", "10.1.0.1/24", "fd01::1/64")
        else:
            self.agent = self.ns("agent")
            self.agent.forwarding()
            self.link(self.client, "eth0", self.agent, "cl")
            self.link(self.agent, "edge", self.fw, "in")
            self.agent.address("cl", "10.1.0.1/24", "fd01::1/64")
            self.agent.address("edge", AGENT + "/24", AGENT6 + "/64")
            self.agent.route("default", INSIDE)
            self.agent.route("default", INSIDE6)
            self.fw.address("in", INSIDE + "/24", INSIDE6 + "/64")
            self.fw.route(CLIENT_NET, AGENT)
            self.fw.route(CLIENT_NET6, AGENT6)
        self.link(self.fw, "out", self.server, "eth0")
        self.client.address("eth0", CLIENT + "/24", CLIENT6 + "/64")
        self.client.route("default", "10.1.0.1")
        self.client.route("default", "fd01::1")
        self.fw.address("out", OUTSIDE + "/24", OUTSIDE6 + "/64")
        self.server.address("eth0", SERVER + "/24", NEIGHBOUR + "/24", SERVER6 + "/64")
        self.server.route("default", OUTSIDE6)
        if not translated:
            self.server.route("default", OUTSIDE)

    @property
    def client_dev(self):
        """The interface of the agent's host towards the client."""
        return "in" if self.one_host else "cl"

    def plain_firewall(self):
        self.fw.nft(PLAIN_FIREWALL)

    def intercept(self):
        intercept(self.agent, self.client_dev)


class OneHost(Line):
    """Agent and middlebox on the firewall itself."""

    one_host = True
