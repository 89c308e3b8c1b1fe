package embedded

import (
	"regexp"
	"strings"
)

// statement is a text that the engine's parser took as exactly one statement.
type statement struct {
	text   string  // as it came
	kind   string  // its first word, upper case
	format string  // the output format it names, or ""
	parsed []token // of the engine's canonical form: no comments, keywords in upper case, names unescaped
}

// testHint is a comment that makes the engine's client side hide an error ("-- { serverError UNKNOWN_TABLE }"): meant for
// ClickHouse's own test files, here it would turn a failure into a success.
var testHint = regexp.MustCompile(`(?is)(--|/\*|#).*\{[^}]*(server|client)?(error|echo)`)

// parse lets the engine's own parser judge the text, so that what is checked is what runs: formatQuery refuses what is no single
// statement, and its answer needs no knowledge of comments, escapes or synonyms.
func (s *slot) parse(text string) (statement, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return statement{}, exception(codeSyntaxError, "a statement may not contain a zero byte")
	}
	if testHint.MatchString(text) {
		return statement{}, exception(codeSyntaxError, "comments with hints for ClickHouse's test runner are not accepted")
	}
	if st, ok := plainSelect(text); ok {
		return st, nil
	}
	s.clean() // a setting of the request before must not change what the engine says of this one
	canonical, err := s.text("SELECT formatQuerySingleLine(" + quote(text) + ")")
	if err != nil {
		return statement{}, plainSyntaxError(err)
	}
	st := statement{text: text, parsed: tokens(canonical)}
	for i, t := range st.parsed {
		if i == 0 || st.kind == "" && !t.symbol('(') {
			st.kind = strings.ToUpper(t.text)
		}
		if st.kind == "(" {
			st.kind = ""
		}
		if t.is("FORMAT") && i+1 < len(st.parsed) && st.parsed[i+1].kind == tokenWord {
			st.format = st.parsed[i+1].text
		}
	}
	return st, nil
}

// plainSelect takes a text that can be read in one way only, as those of our own verbs: a SELECT of printable ASCII without comments, escapes, quoted
// names, heredocs, a second statement, or a word that begins a clause of which the checks want to know more than that it is there. What
// is checked are its own words then, which saves the engine's parser 2 to 5 ms of each question.
func plainSelect(text string) (statement, bool) {
	unusual := func(r rune) bool { return r < ' ' && r != '\n' || r > '~' || strings.ContainsRune("\\`\"#$;", r) }
	if strings.ContainsFunc(text, unusual) || strings.Contains(text, "--") || strings.Contains(text, "/*") {
		return statement{}, false
	}
	st := statement{text: text, parsed: tokens(text)}
	if len(st.parsed) == 0 {
		return statement{}, false
	}
	for _, t := range st.parsed {
		switch strings.ToUpper(t.text) {
		case "FORMAT", "SETTINGS", "INTO", "OUTFILE", "INFILE", "INSERT", "PARALLEL":
			return statement{}, false
		}
	}
	st.kind = strings.ToUpper(st.parsed[0].text)
	return st, st.kind == "SELECT" || st.kind == "WITH"
}

// plainSyntaxError takes our wrapping statement out of the parser's message.
func plainSyntaxError(err error) error {
	text, _, found := strings.Cut(err.Error(), ": In scope SELECT formatQuerySingleLine(")
	if !found {
		return err
	}
	return exception(codeSyntaxError, "%s (SYNTAX_ERROR)", numberedPrefix.ReplaceAllString(text, ""))
}

// reads tells whether the statement is of a kind that only reads.
func (st statement) reads() bool {
	switch st.kind {
	case "SELECT", "WITH", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN":
		return true
	}
	return false
}

// sessionOnly tells whether the statement only changes a session, which a request without a session does not have: a server
// accepts it and forgets it, and so do we, because connections here are shared.
func (st statement) sessionOnly() bool { return st.kind == "SET" || st.kind == "USE" }

// allowed refuses what no client may do over HTTP here, with credentials or without.
func (st statement) allowed() error {
	for i, t := range st.parsed {
		next := func(word string) bool { return i+1 < len(st.parsed) && st.parsed[i+1].is(word) }
		switch {
		case t.is("INTO") && next("OUTFILE"):
			return exception(codeAccessDenied, "INTO OUTFILE is not allowed")
		case t.is("FROM") && next("INFILE"):
			return exception(codeAccessDenied, "FROM INFILE is not allowed")
		case st.kind == "CREATE" && t.is("TEMPORARY"):
			return exception(codeNotImplemented, "temporary tables need a session, which the embedded store does not have")
		}
	}
	return nil
}

// deniedNames are functions that no grant covers and that reach beyond the databases: file() reads any file, catboostEvaluate
// loads one, the ai functions call out. They are refused as names, not as calls, because a function can be passed by name
// (arrayMap(file, …), * APPLY file).
var deniedNames = map[string]bool{
	"file": true, "catboostevaluate": true,
	"aiclassify": true, "aigenerate": true, "aiextract": true, "aitranslate": true,
}

// allowedForReaders refuses what the grants of a reader's connection do not cover.
func (st statement) allowedForReaders() error {
	if !st.reads() {
		return exception(codeAccessDenied, "Without credentials only SELECT, SHOW, DESCRIBE, EXISTS and EXPLAIN are allowed; "+
			"writers use the user %s with the password in the collector's data directory (ACCESS_DENIED)", writerUser)
	}
	// A placeholder of type Identifier can stand for a name that the canonical form does not show.
	if strings.Contains(st.text, "{") && strings.Contains(strings.ToLower(st.text), "identifier") {
		return exception(codeAccessDenied, "Placeholders of type Identifier are not allowed without credentials (ACCESS_DENIED)")
	}
	for i, t := range st.parsed {
		switch {
		case t.is("OUTFILE"), t.is("INFILE"), t.is("PARALLEL") && i+1 < len(st.parsed) && st.parsed[i+1].is("WITH"):
			return exception(codeAccessDenied, "%s is not allowed without credentials (ACCESS_DENIED)", strings.ToUpper(t.text))
		case (t.kind == tokenWord || t.kind == tokenQuoted) && deniedNames[strings.ToLower(t.text)]:
			return exception(codeAccessDenied, "The name %s is not allowed without credentials (ACCESS_DENIED)", t.text)
		case t.is("SETTINGS"):
			if err := readerSettingsClause(st.parsed[i+1:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readerSettingsClause checks the names of "a = 1, b = 2" up to the end of its parentheses. It may take a comparison of a later
// SELECT for a setting, which refuses an odd query, but it misses no setting.
func readerSettingsClause(rest []token) error {
	depth := 0
	for i, t := range rest {
		switch {
		case t.symbol('('), t.symbol('['), t.symbol('{'):
			depth++
		case t.symbol(')'), t.symbol(']'), t.symbol('}'):
			depth--
		}
		if depth < 0 {
			return nil
		}
		startsItem := i == 0 || rest[i-1].symbol(',')
		if depth == 0 && startsItem && i+1 < len(rest) && rest[i+1].symbol('=') && !readerSettings(t.text) {
			return exception(codeAccessDenied, "Setting %s cannot be changed without credentials (ACCESS_DENIED)", t.text)
		}
	}
	return nil
}

// readerSettings tells which settings a reader may change: those that shape or limit a result. The engine itself holds the rest of
// the fence (constraints in usersXML, readonly).
func readerSettings(name string) bool {
	if strings.HasPrefix(name, "output_format_") {
		return name != "output_format_schema"
	}
	switch name {
	case "max_execution_time", "max_threads", "max_block_size", "max_result_rows", "max_result_bytes", "result_overflow_mode",
		"max_rows_to_read", "max_bytes_to_read", "read_overflow_mode", "timeout_overflow_mode", "max_rows_to_group_by", "group_by_overflow_mode",
		"max_rows_to_sort", "sort_overflow_mode", "max_rows_in_distinct", "final", "limit", "offset", "extremes", "join_use_nulls", "group_by_use_nulls",
		"session_timezone", "date_time_output_format", "transform_null_in", "aggregate_functions_null_for_empty", "prefer_column_name_to_alias",
		"format_csv_delimiter", "format_csv_null_representation", "format_tsv_null_representation", "totals_mode", "totals_auto_threshold",
		"use_skip_indexes", "force_primary_key", "enable_analyzer", "allow_experimental_analyzer", "optimize_read_in_order",
		"bool_true_representation", "bool_false_representation", "cast_keep_nullable", "enable_positional_arguments":
		return true
	}
	return false
}
