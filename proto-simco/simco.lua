-- Wireshark dissector for SIMCO 3.0 (RFC 4540) with Sluice's extensions.
--
-- Copy it into a personal plugin folder (Help > About > Folders), or run
--   tshark -X lua_script:simco.lua -r capture.pcap
-- TCP port 7626. TLS on that port goes to the TLS dissector, and comes back
-- here once it is decrypted.

local simco = Proto("simco", "Simple Middlebox Configuration Protocol")

local HEADER_LEN = 8
local MESSAGE_MAX = 65536

-- ---- names (RFC 4540 section 4) -------------------------------------------------

local basic_types = {
	[1] = "Request",
	[2] = "Positive Reply",
	[3] = "Negative Reply",
	[4] = "Notification",
}

local types = {
	[0x0101] = "SE request",
	[0x0102] = "SA request",
	[0x0103] = "ST request",
	[0x0111] = "PRR request",
	[0x0112] = "PER request",
	[0x0113] = "PEA request",
	[0x0114] = "PDR request",
	[0x0115] = "PLC request",
	[0x0121] = "PRS request",
	[0x0122] = "PRL request",
	[0x0201] = "SE reply",
	[0x0202] = "SA reply",
	[0x0203] = "ST reply",
	[0x0211] = "PRR reply",
	[0x0212] = "PER reply",
	[0x0214] = "PDR reply",
	[0x0215] = "PLC reply",
	[0x0216] = "PRD reply",
	[0x0221] = "PRS reply",
	[0x0222] = "PRL reply",
	[0x0223] = "PES reply",
	[0x0224] = "PDS reply",
	[0x0310] = "wrong basic request message type",
	[0x0311] = "wrong request message sub-type",
	[0x0312] = "badly formed request",
	[0x0313] = "reply message too big",
	[0x0320] = "request not applicable",
	[0x0321] = "lack of resources",
	[0x0322] = "protocol version mismatch",
	[0x0323] = "authentication failed",
	[0x0324] = "no authorization",
	[0x0325] = "transport protocol problem",
	[0x0326] = "security of underlying protocol layers insufficient",
	[0x0340] = "transaction not supported",
	[0x0341] = "agent not authorized for this transaction",
	[0x0342] = "no resources available for this transaction",
	[0x0343] = "specified policy rule does not exist",
	[0x0344] = "specified policy rule group does not exist",
	[0x0345] = "not authorized for accessing specified policy",
	[0x0346] = "not authorized for accessing specified group",
	[0x0347] = "requested address space not available",
	[0x0348] = "lack of IP addresses",
	[0x0349] = "lack of port numbers",
	[0x034a] = "middlebox configuration failed",
	[0x034b] = "inconsistent request",
	[0x034c] = "requested wildcarding not supported",
	[0x034d] = "protocol type doesn't match",
	[0x034e] = "NAT mode not supported",
	[0x034f] = "IP version mismatch",
	[0x0350] = "conflict with existing rule",
	[0x0351] = "not authorized to change lifetime",
	[0x0352] = "lifetime can't be extended",
	[0x0353] = "illegal IP address",
	[0x0354] = "protocol type not supported",
	[0x0355] = "illegal port number",
	[0x0356] = "illegal number of subsequent ports",
	[0x0357] = "already enable PID",
	[0x0358] = "parity doesn't match",
	[0x0401] = "BFM notification",
	[0x0402] = "AST notification",
	[0x0403] = "ARE notification",
}

local attr_types = {
	[0x0001] = "SIMCO protocol version",
	[0x0002] = "authentication challenge",
	[0x0003] = "authentication token",
	[0x0004] = "middlebox capabilities",
	[0x0005] = "policy rule identifier",
	[0x0006] = "group identifier",
	[0x0007] = "policy rule lifetime",
	[0x0008] = "policy rule owner",
	[0x0009] = "address tuple",
	[0x000a] = "PRR parameter set",
	[0x000b] = "PER parameter set",
	[0x8000] = "extensions",
	[0x8001] = "activity",
	[0x8002] = "reason",
}

local tuple_forms = { [0] = "full addresses", [1] = "protocols only" }
local ip_versions = { [0] = "any", [1] = "IPv4", [2] = "IPv6" }
local ip_version_sets = { [1] = "IPv4", [2] = "IPv6", [3] = "IPv4 and IPv6" }
local locations = { [0] = "internal (A0)", [1] = "inside (A1)", [2] = "outside (A2)",
	[3] = "external (A3)" }
local nat_modes = { [1] = "traditional", [2] = "twice" }
local parities = { [0] = "any", [1] = "odd", [2] = "even" }
local per_parities = { [0] = "any", [3] = "same" }
local directions = { [1] = "inbound", [2] = "outbound", [3] = "bi-directional" }
local protocols = { [0] = "any", [1] = "ICMP", [6] = "TCP", [17] = "UDP", [33] = "DCCP",
	[58] = "ICMPv6", [132] = "SCTP", [136] = "UDP-Lite" }

-- ---- fields ------------------------------------------------------------------------

local f = {
	type = ProtoField.uint16("simco.type", "Message Type", base.HEX, types),
	basic = ProtoField.uint8("simco.basic_type", "Basic Type", base.HEX, basic_types),
	sub = ProtoField.uint8("simco.sub_type", "Sub-Type", base.HEX),
	length = ProtoField.uint16("simco.length", "Message Length", base.DEC),
	tid = ProtoField.uint32("simco.tid", "Transaction Identifier", base.DEC_HEX),

	attr = ProtoField.none("simco.attr", "Attribute"),
	attr_type = ProtoField.uint16("simco.attr.type", "Type", base.HEX, attr_types),
	attr_length = ProtoField.uint16("simco.attr.length", "Length", base.DEC),
	attr_value = ProtoField.bytes("simco.attr.value", "Value"),

	version_major = ProtoField.uint8("simco.version.major", "Major Version", base.DEC),
	version_minor = ProtoField.uint8("simco.version.minor", "Minor Version", base.DEC),
	reserved = ProtoField.uint16("simco.reserved", "Reserved", base.HEX),
	challenge = ProtoField.bytes("simco.challenge", "Challenge"),
	token = ProtoField.bytes("simco.token", "Token"),

	mb = ProtoField.uint8("simco.mb_type", "Middlebox Type", base.HEX),
	mb_fw = ProtoField.bool("simco.mb_type.firewall", "Packet filter firewall", 8, nil, 0x80),
	mb_nat = ProtoField.bool("simco.mb_type.nat", "Network address translator", 8, nil, 0x40),
	mb_pdr = ProtoField.bool("simco.mb_type.pdr", "PDR transaction", 8, nil, 0x10),
	mb_twice = ProtoField.bool("simco.mb_type.twice_nat", "Twice NAT", 8, nil, 0x04),
	mb_proto = ProtoField.bool("simco.mb_type.protocol_translation", "Protocol translation",
		8, nil, 0x02),
	mb_port = ProtoField.bool("simco.mb_type.port_translation", "Port translation", 8, nil, 0x01),
	cap_i = ProtoField.bool("simco.cap.internal_wildcard", "Internal IP address wildcards",
		8, nil, 0x80),
	cap_e = ProtoField.bool("simco.cap.external_wildcard", "External IP address wildcards",
		8, nil, 0x40),
	cap_p = ProtoField.bool("simco.cap.port_wildcard", "Port wildcards", 8, nil, 0x20),
	cap_s = ProtoField.bool("simco.cap.persistent", "Persistent policy rules", 8, nil, 0x10),
	cap_iiv = ProtoField.uint8("simco.cap.internal_ip", "Internal IP versions", base.HEX,
		ip_version_sets, 0x0c),
	cap_eiv = ProtoField.uint8("simco.cap.external_ip", "External IP versions", base.HEX,
		ip_version_sets, 0x03),
	max_lifetime = ProtoField.uint32("simco.cap.max_lifetime", "Max Policy Rule Lifetime",
		base.UNIT_STRING, { " s" }),

	pid = ProtoField.uint32("simco.pid", "Policy Rule Identifier", base.DEC),
	gid = ProtoField.uint32("simco.gid", "Group Identifier", base.DEC),
	lifetime = ProtoField.uint32("simco.lifetime", "Lifetime", base.UNIT_STRING, { " s" }),
	owner = ProtoField.string("simco.owner", "Owner"),

	tuple_form = ProtoField.uint8("simco.tuple.form", "Form", base.DEC, tuple_forms, 0xf0),
	tuple_ip = ProtoField.uint8("simco.tuple.ip_version", "IP Version", base.DEC, ip_versions,
		0x0f),
	tuple_prefix = ProtoField.uint8("simco.tuple.prefix_length", "Prefix Length", base.DEC),
	tuple_protocol = ProtoField.uint8("simco.tuple.protocol", "Transport Protocol", base.DEC,
		protocols),
	tuple_location = ProtoField.uint8("simco.tuple.location", "Location", base.DEC, locations),
	tuple_port = ProtoField.uint16("simco.tuple.port", "Port", base.DEC),
	tuple_range = ProtoField.uint16("simco.tuple.port_range", "Port Range", base.DEC),
	tuple_v4 = ProtoField.ipv4("simco.tuple.ipv4", "IPv4 Address"),
	tuple_v6 = ProtoField.ipv6("simco.tuple.ipv6", "IPv6 Address"),

	prr_nm = ProtoField.uint8("simco.prr.nat_mode", "NAT Mode", base.DEC, nat_modes, 0xc0),
	prr_pp = ProtoField.uint8("simco.prr.parity", "Port Parity", base.DEC, parities, 0x30),
	prr_ipi = ProtoField.uint8("simco.prr.inside_ip", "Inside IP Version", base.DEC,
		ip_versions, 0x0c),
	prr_ipo = ProtoField.uint8("simco.prr.outside_ip", "Outside IP Version", base.DEC,
		ip_versions, 0x03),
	prr_protocol = ProtoField.uint8("simco.prr.protocol", "Transport Protocol", base.DEC,
		protocols),
	prr_range = ProtoField.uint16("simco.prr.port_range", "Port Range", base.DEC),
	per_parity = ProtoField.uint8("simco.per.parity", "Port Parity", base.DEC, per_parities),
	per_direction = ProtoField.uint8("simco.per.direction", "Direction", base.DEC, directions),

	ext = ProtoField.uint32("simco.ext", "Extensions", base.HEX),
	ext_activity = ProtoField.bool("simco.ext.activity", "Activity in PES replies", 32, nil,
		0x00000001),
	ext_reason = ProtoField.bool("simco.ext.reason", "Reason in ARE notifications", 32, nil,
		0x00000002),
	reason = ProtoField.uint32("simco.reason", "Reason", base.DEC, { [0] = "not told",
		[1] = "expired", [2] = "media timeout", [3] = "operator", [4] = "disabled" }),
	act_in_packets = ProtoField.uint64("simco.activity.in.packets", "Inbound Packets", base.DEC),
	act_in_octets = ProtoField.uint64("simco.activity.in.octets", "Inbound Octets", base.DEC),
	act_in_idle = ProtoField.uint64("simco.activity.in.idle",
		"Milliseconds since the last inbound packet", base.DEC),
	act_out_packets = ProtoField.uint64("simco.activity.out.packets", "Outbound Packets",
		base.DEC),
	act_out_octets = ProtoField.uint64("simco.activity.out.octets", "Outbound Octets", base.DEC),
	act_out_idle = ProtoField.uint64("simco.activity.out.idle",
		"Milliseconds since the last outbound packet", base.DEC),
}

local list = {}
for _, field in pairs(f) do
	list[#list + 1] = field
end
simco.fields = list

local e = {
	malformed = ProtoExpert.new("simco.malformed", "Malformed SIMCO", expert.group.MALFORMED,
		expert.severity.ERROR),
	undefined = ProtoExpert.new("simco.undefined", "Undefined value", expert.group.PROTOCOL,
		expert.severity.WARN),
	negative = ProtoExpert.new("simco.negative", "Request refused",
		expert.group.RESPONSE_CODE, expert.severity.NOTE),
	ended = ProtoExpert.new("simco.ended", "Session ended by the middlebox",
		expert.group.RESPONSE_CODE, expert.severity.WARN),
}
simco.experts = { e.malformed, e.undefined, e.negative, e.ended }

-- ---- attributes ----------------------------------------------------------------------

local function undefined(tree, what)
	tree:add_proto_expert_info(e.undefined, "Undefined " .. what)
end

local function known(tree, names, value, what)
	if names[value] == nil then
		undefined(tree, what)
	end
end

local function dissect_tuple(v, tree)
	local form, version = v(0, 1):bitfield(0, 4), v(0, 1):bitfield(4, 4)
	local location = v(3, 1):uint()
	local where = locations[location] or "unknown location"
	local text = "protocol " .. v(2, 1):uint()

	tree:add(f.tuple_form, v(0, 1))
	tree:add(f.tuple_ip, v(0, 1))
	tree:add(f.tuple_prefix, v(1, 1))
	tree:add(f.tuple_protocol, v(2, 1))
	tree:add(f.tuple_location, v(3, 1))
	known(tree, tuple_forms, form, "first parameter field")
	known(tree, ip_versions, version, "IP version")
	known(tree, locations, location, "location")
	if form == 0 and v:len() >= 12 then
		local port, range = v(4, 2):uint(), v(6, 2):uint()
		local bits, addr

		tree:add(f.tuple_port, v(4, 2))
		tree:add(f.tuple_range, v(6, 2))
		if v:len() == 12 then
			tree:add(f.tuple_v4, v(8, 4))
			bits, addr = 32, tostring(v(8, 4):ipv4())
		else
			tree:add(f.tuple_v6, v(8, 16))
			bits, addr = 128, tostring(v(8, 16):ipv6())
		end
		if range == 0 then
			undefined(tree, "port range 0")
		end
		if v(1, 1):uint() > bits then
			undefined(tree, "prefix length")
		elseif v(1, 1):uint() < bits then
			addr = addr .. "/" .. v(1, 1):uint()
		end
		text = (protocols[v(2, 1):uint()] or text) .. " " .. addr .. " port " ..
			(port == 0 and "any" or port) ..
			(port ~= 0 and range > 1 and ("-" .. (port + range - 1)) or "")
	else
		text = (protocols[v(2, 1):uint()] or text) .. ", any address"
	end
	return where .. ": " .. text
end

local function dissect_capabilities(v, tree)
	local mb = tree:add(f.mb, v(0, 1))

	for _, name in ipairs({ "mb_fw", "mb_nat", "mb_pdr", "mb_twice", "mb_proto", "mb_port" }) do
		mb:add(f[name], v(0, 1))
	end
	for _, name in ipairs({ "cap_i", "cap_e", "cap_p", "cap_s", "cap_iiv", "cap_eiv" }) do
		tree:add(f[name], v(1, 1))
	end
	tree:add(f.reserved, v(2, 2))
	tree:add(f.max_lifetime, v(4, 4))
	known(tree, ip_version_sets, v(1, 1):bitfield(4, 2), "internal IP versions")
	known(tree, ip_version_sets, v(1, 1):bitfield(6, 2), "external IP versions")
end

local function dissect_prr(v, tree)
	for _, name in ipairs({ "prr_nm", "prr_pp", "prr_ipi", "prr_ipo" }) do
		tree:add(f[name], v(0, 1))
	end
	tree:add(f.prr_protocol, v(1, 1))
	tree:add(f.prr_range, v(2, 2))
	known(tree, nat_modes, v(0, 1):bitfield(0, 2), "NAT mode")
	known(tree, parities, v(0, 1):bitfield(2, 2), "port parity")
	known(tree, ip_versions, v(0, 1):bitfield(4, 2), "inside IP version")
	known(tree, ip_versions, v(0, 1):bitfield(6, 2), "outside IP version")
end

local function dissect_per(v, tree)
	tree:add(f.per_parity, v(0, 1))
	tree:add(f.per_direction, v(1, 1))
	tree:add(f.reserved, v(2, 2))
	known(tree, per_parities, v(0, 1):uint(), "port parity")
	known(tree, directions, v(1, 1):uint(), "direction")
	return directions[v(1, 1):uint()]
end

local function dissect_activity(v, tree)
	for i, name in ipairs({ "act_in_packets", "act_in_octets", "act_in_idle",
		"act_out_packets", "act_out_octets", "act_out_idle" }) do
		tree:add(f[name], v((i - 1) * 8, 8))
	end
end

-- A number or a run of octets: just the field.
local function simple(name)
	return function(v, tree)
		tree:add(f[name], v)
		if v:len() == 4 and name ~= "challenge" and name ~= "token" and name ~= "owner" then
			return tostring(v:uint())
		end
	end
end

-- Shortest and longest value, and how to show it. The text that it returns goes
-- behind the name of the attribute.
local attributes = {
	[0x0001] = { 4, 4, function(v, tree)
		tree:add(f.version_major, v(0, 1))
		tree:add(f.version_minor, v(1, 1))
		tree:add(f.reserved, v(2, 2))
		return v(0, 1):uint() .. "." .. v(1, 1):uint()
	end },
	[0x0002] = { 0, 4096, simple("challenge") },
	[0x0003] = { 0, 4096, simple("token") },
	[0x0004] = { 8, 8, dissect_capabilities },
	[0x0005] = { 4, 4, simple("pid") },
	[0x0006] = { 4, 4, simple("gid") },
	[0x0007] = { 4, 4, simple("lifetime") },
	[0x0008] = { 0, 255, function(v, tree)
		tree:add(f.owner, v)
		return v:string()
	end },
	[0x0009] = { 4, 24, dissect_tuple },
	[0x000a] = { 4, 4, dissect_prr },
	[0x000b] = { 4, 4, dissect_per },
	[0x8000] = { 4, 4, function(v, tree)
		local item = tree:add(f.ext, v)
		item:add(f.ext_activity, v)
		item:add(f.ext_reason, v)
	end },
	[0x8001] = { 48, 48, dissect_activity },
	[0x8002] = { 4, 4, function(v, tree)
		tree:add(f.reason, v)
	end },
}

-- The three lengths of a tuple follow from its first octet (section 4.3.8).
local function tuple_fits(v)
	if v:len() < 4 then
		return false
	end
	local form, version = v(0, 1):bitfield(0, 4), v(0, 1):bitfield(4, 4)
	return v:len() == (form == 1 and 4 or version == 2 and 24 or 12)
end

local function dissect_attribute(buf, tree)
	local attr, length = buf(0, 2):uint(), buf(2, 2):uint()
	local row = attributes[attr]
	local sub = tree:add(f.attr, buf(0, 4 + length))
	local text

	sub:set_text(attr_types[attr] or string.format("unknown attribute 0x%04x", attr))
	sub:add(f.attr_type, buf(0, 2))
	sub:add(f.attr_length, buf(2, 2))
	if row == nil then
		sub:add_proto_expert_info(e.undefined, "Unknown attribute")
	elseif length < row[1] or length > row[2] then
		sub:add_proto_expert_info(e.malformed, "Wrong attribute length")
		row = nil
	elseif attr == 0x0009 and not tuple_fits(buf(4, length)) then
		sub:add_proto_expert_info(e.malformed, "Length does not fit the tuple")
		row = nil
	end
	if length == 0 then
		return
	end
	if row == nil then
		sub:add(f.attr_value, buf(4, length))
		return
	end
	text = row[3](buf(4, length), sub)
	if text ~= nil then
		sub:append_text(": " .. text)
	end
end

-- ---- messages --------------------------------------------------------------------------

local function dissect_payload(buf, tree)
	local at = 0

	while at < buf:len() do
		local left = buf:len() - at

		if left < 4 or left - 4 < buf(at + 2, 2):uint() then
			tree:add_proto_expert_info(e.malformed, "Attribute longer than its message")
			return
		end
		local size = 4 + buf(at + 2, 2):uint()

		dissect_attribute(buf(at, size), tree)
		at = at + size
	end
end

-- "PLC request 7, rule 42, 60 s" in the packet list.
local function summary(buf, name)
	local text = name .. " " .. buf(4, 4):uint()
	local at = HEADER_LEN

	while buf:len() - at >= 8 and buf:len() - at - 4 >= buf(at + 2, 2):uint() do
		local attr, length = buf(at, 2):uint(), buf(at + 2, 2):uint()

		if attr == 0x0005 and length == 4 and buf(0, 2):uint() ~= 0x0222 then
			text = text .. ", rule " .. buf(at + 4, 4):uint()
		elseif attr == 0x0007 and length == 4 then
			text = text .. ", " .. buf(at + 4, 4):uint() .. " s"
		end
		at = at + 4 + length
	end
	return text
end

local function dissect_message(buf, pinfo, tree)
	local type, basic = buf(0, 2):uint(), buf(0, 1):uint()
	local name = types[type] or string.format("unknown message 0x%04x", type)
	local root = tree:add(simco, buf(), "SIMCO, " .. name)
	local kind = root:add(f.type, buf(0, 2))

	kind:add(f.basic, buf(0, 1))
	kind:add(f.sub, buf(1, 1))
	root:add(f.length, buf(2, 2))
	root:add(f.tid, buf(4, 4))
	if types[type] == nil then
		root:add_proto_expert_info(e.undefined, "Unknown message type")
	elseif basic == 3 then
		root:add_proto_expert_info(e.negative, name)
	elseif type == 0x0401 or type == 0x0402 then
		root:add_proto_expert_info(e.ended, name)
	end
	if buf:len() > HEADER_LEN then
		dissect_payload(buf(HEADER_LEN):tvb(), root)
	end
	pinfo.cols.info:append((tostring(pinfo.cols.info) ~= "" and "; " or "") ..
		summary(buf, name))
end

local function is_tls(buf)
	return buf:len() >= 2 and buf(0, 1):uint() >= 20 and buf(0, 1):uint() <= 23 and
		buf(1, 1):uint() == 3
end

function simco.dissector(buf, pinfo, tree)
	local at = 0

	if is_tls(buf) then
		return Dissector.get("tls"):call(buf, pinfo, tree)
	end
	pinfo.cols.protocol = "SIMCO"
	pinfo.cols.info = ""
	while at < buf:len() do
		local left = buf:len() - at

		if left < HEADER_LEN then
			pinfo.desegment_offset = at
			pinfo.desegment_len = DESEGMENT_ONE_MORE_SEGMENT
			return
		end
		local size = HEADER_LEN + buf(at + 2, 2):uint()

		if size > MESSAGE_MAX then
			local root = tree:add(simco, buf(at))

			root:add_proto_expert_info(e.malformed, "Message longer than 65536 octets")
			return
		end
		if left < size then
			pinfo.desegment_offset = at
			pinfo.desegment_len = size - left
			return
		end
		dissect_message(buf(at, size):tvb(), pinfo, tree)
		at = at + size
	end
end

DissectorTable.get("tcp.port"):add(7626, simco)
DissectorTable.get("tls.port"):add(7626, simco)
