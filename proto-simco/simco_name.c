/*
 * Text for logs and tools.
 */
#include "proto-simco/simco_int.h"

const char *simco_type_name(uint16_t type)
{
	const struct simco_format *f = simco_format_find(type);

	return f != NULL ? f->name : "unknown message type";
}

const char *simco_attr_name(uint16_t attr)
{
	const struct simco_attr_row *row = simco_attr_find(attr);

	return row != NULL ? row->name : "unknown attribute";
}

const char *simco_location_name(uint8_t location)
{
	static const char *const names[] = {"internal", "inside", "outside", "external"};

	return location < ARRAY_LEN(names) ? names[location] : "unknown location";
}

const char *simco_state_name(enum simco_session_state state)
{
	static const char *const names[] = {"CLOSED", "NOAUTH", "OPEN"};

	return (size_t)state < ARRAY_LEN(names) ? names[state] : "unknown state";
}

const char *simco_err_name(int err)
{
	static const char *const names[] = {
		"no error",
		"message incomplete",
		"message does not comply with its type",
		"message or output too big",
		"out of memory",
		"not in this state",
		"session closed",
	};

	return err <= 0 && -err < (int)ARRAY_LEN(names) ? names[-err] : "unknown error";
}
