# METADATA
# title: House style
# description: >-
#   What is asked of a policy beyond that it compiles. The input is one module, as the
#   check has prepared it: file, package, lines, and its rules with their arguments and
#   negated calls. Each finding names its rule and its line.
# scope: package
package style

# METADATA
# title: All findings of one module
# entrypoint: true
findings := names | long_lines | misplaced | stray_tests | debugging | negations

# METADATA
# title: Names are in snake case
# description: Of rules, functions, their arguments and packages; a leading underscore marks what is the file's own.
names contains _finding("snake-case", rule.line, $"the name {name} is not in snake_case") if {
	some rule in input.rules
	some name in array.concat([rule.name], rule.arguments)
	not _snake_case(name)
}

names contains _finding("snake-case", 1, $"the package {input.package} is not in snake_case") if {
	some part in split(input.package, ".")
	not _snake_case(part)
}

# METADATA
# title: Lines can be read beside a diff
long_lines contains _finding("line-length", i + 1, $"the line has {count(line)} characters, {_longest} are allowed") if {
	some i, line in input.lines
	count(line) > _longest
}

# METADATA
# title: A package lies in the folder of its name
misplaced contains _finding("package-in-folder", 1, $"the package {input.package} belongs into {expected}/") if {
	expected := concat("/", split(trim_suffix(input.package, "_test"), "."))
	not endswith(_folder, expected)
}

# METADATA
# title: Tests are in test files, and nothing else is called so
stray_tests contains _finding("test-in-test-file", rule.line, $"{rule.name} is a test outside of a _test.rego file: it would be evaluated for each request") if {
	not _is_test
	some rule in input.rules
	startswith(rule.name, "test_")
}

stray_tests contains _finding("test-package", 1, "the package of a test file ends with _test: a test sees what others see") if {
	_is_test
	not endswith(input.package, "_test")
}

# METADATA
# title: Nothing is printed by a request
debugging contains _finding("print", rule.line, "print is for tests") if {
	not _is_test
	some rule in input.rules
	rule.prints
}

# METADATA
# title: A negated call does not hide missing input
# description: >-
#   With input.x missing, the body of "not f(input.x)" is undefined: a denial that is
#   written so is skipped, and what it was to deny is let in. Give the call a name of its
#   own, without arguments, and negate that.
negations contains _finding("negated-call-of-input", negation.line, $"with the input missing, not {negation.text} is undefined and the rule is skipped: name the call in a rule, and negate that") if {
	not _is_test
	some rule in input.rules
	some negation in rule.negations
}

_longest := 160

_is_test if endswith(input.file, "_test.rego")

_folder := concat("/", array.slice(_path, 0, count(_path) - 1))

_path := split(input.file, "/")

_snake_case(name) if regex.match(`^_?[a-z][a-z0-9_]*$`, name)

_finding(rule, line, text) := {"rule": rule, "line": line, "text": text}
