// Package setting reads the values that people paste into variables and files.
// What an editor, a shell or a base64 command adds without being asked is
// dropped; a value that cannot be meant is an error that does not quote it.
package setting

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

const byteOrderMark = "\uFEFF"

var (
	errUTF16   = errors.New("it is UTF-16 text, as Windows PowerShell writes it: save it as UTF-8")
	errNotUTF8 = errors.New("it is not UTF-8 text: save it as UTF-8")
	errLost    = errors.New("it holds a character that was lost when its encoding was changed: give the original, as UTF-8")
	errMark    = errors.New("it holds a byte order mark in the middle: it was probably joined from two files")
	errLines   = errors.New("it has more than one line: give the value alone")
)

// Text returns a value without the white space, invisible characters and byte
// order marks around it. A value that cannot be meant is an error: UTF-16, text
// that is not UTF-8, a control character inside. The error quotes nothing.
func Text(s string) (string, error) {
	if err := encoding(s); err != nil {
		return "", err
	}
	s = strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			return "", errLost
		case r == '\uFEFF':
			return "", errMark
		case r == '\n' || r == '\r':
			return "", errLines
		case unicode.IsControl(r):
			return "", fmt.Errorf("it holds a control character, at byte %d", i+1)
		}
	}
	return s, nil
}

// File returns what a file with one value holds, by the rules of [Text]. An
// empty file is an error. The error names the file.
func File(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s, err := Text(string(data))
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if s == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return s, nil
}

// Lines returns a text of several lines, such as a PEM file, without byte order
// marks: files that were put together leave one before each part. UTF-16 is an
// error.
func Lines(data []byte) ([]byte, error) {
	if looksUTF16(string(data)) {
		return nil, errUTF16
	}
	return bytes.ReplaceAll(data, []byte(byteOrderMark), nil), nil
}

func encoding(s string) error {
	switch {
	case looksUTF16(s):
		return errUTF16
	case !utf8.ValidString(s):
		return errNotUTF8
	}
	return nil
}

// looksUTF16 reports whether a text begins with a mark of UTF-16, or has the
// zeros of UTF-16 without one: as the first or second byte of a character.
func looksUTF16(s string) bool {
	if strings.HasPrefix(s, "\xFF\xFE") || strings.HasPrefix(s, "\xFE\xFF") {
		return true
	}
	return len(s) >= 4 && (s[0] == 0) != (s[1] == 0) && (s[2] == 0) == (s[0] == 0) && (s[3] == 0) == (s[1] == 0)
}
