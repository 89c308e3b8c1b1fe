package embedded

import "strings"

type tokenKind uint8

const (
	tokenWord   tokenKind = iota // a bare word: a keyword or an identifier
	tokenQuoted                  // a quoted identifier, without its quotes
	tokenString                  // a string literal or heredoc; its text is never looked at
	tokenSymbol                  // one other character
)

type token struct {
	kind       tokenKind
	text       string
	start, end int // byte offsets in the source
}

// is tells whether the token is the bare word, in any case.
func (t token) is(word string) bool { return t.kind == tokenWord && strings.EqualFold(t.text, word) }

// symbol tells whether the token is the character c.
func (t token) symbol(c byte) bool { return t.kind == tokenSymbol && t.text[0] == c }

// nextToken reads the token at or after offset at, past blanks and comments; ok is false at the end of the text.
func nextToken(text string, at int) (t token, ok bool) {
	at = skipBlank(text, at)
	if at >= len(text) {
		return token{}, false
	}
	switch c := text[at]; {
	case isWordByte(c):
		end := at
		for end < len(text) && isWordByte(text[end]) {
			end++
		}
		return token{tokenWord, text[at:end], at, end}, true
	case c == '\'':
		_, end := unquote(text, at)
		return token{tokenString, "", at, end}, true
	case c == '`' || c == '"':
		name, end := unquote(text, at)
		return token{tokenQuoted, name, at, end}, true
	case c == '$':
		if end, ok := heredoc(text, at); ok {
			return token{tokenString, "", at, end}, true
		}
	}
	return token{tokenSymbol, text[at : at+1], at, at + 1}, true
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// skipBlank passes white space and the comments of ClickHouse: -- and # to the end of the line, /* */ not nested.
func skipBlank(text string, at int) int {
	for at < len(text) {
		rest := text[at:]
		switch {
		case strings.IndexByte(" \t\r\n\v\f", rest[0]) >= 0:
			at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "# "), strings.HasPrefix(rest, "#!"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				return len(text)
			}
			at += end + 1
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return len(text)
			}
			at += 2 + end + 2
		default:
			return at
		}
	}
	return at
}

// unquote reads the quoted text at offset at: a doubled quote or a backslash escapes. Only \\, \' and the like occur in names that
// the engine wrote itself, so other escapes keep their letter.
func unquote(text string, at int) (inner string, end int) {
	quote := text[at]
	var b strings.Builder
	for i := at + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case text[i] == quote && i+1 < len(text) && text[i+1] == quote:
			i++
			b.WriteByte(quote)
		case text[i] == quote:
			return b.String(), i + 1
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), len(text)
}

// heredoc finds the end of $tag$ … $tag$.
func heredoc(text string, at int) (end int, ok bool) {
	open := at + 1
	for open < len(text) && isWordByte(text[open]) {
		open++
	}
	if open >= len(text) || text[open] != '$' {
		return 0, false
	}
	tag := text[at : open+1]
	closing := strings.Index(text[open+1:], tag)
	if closing < 0 {
		return 0, false
	}
	return open + 1 + closing + len(tag), true
}

// tokens of a whole text.
func tokens(text string) []token {
	var list []token
	for at := 0; ; {
		t, ok := nextToken(text, at)
		if !ok {
			return list
		}
		list = append(list, t)
		at = t.end
	}
}
