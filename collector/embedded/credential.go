package embedded

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	writerUser       = "tributary"
	passwordFile     = "clickhouse.password"
	passwordHexBytes = 64
)

// Credential lets a client write. The password is 32 random bytes in hex.
type Credential struct{ User, Password string }

// String never shows the password, so that a logged configuration is harmless.
func (c Credential) String() string { return c.User + ":[hidden]" }

// matches compares in constant time.
func (c Credential) matches(user, password string) bool {
	u := subtle.ConstantTimeCompare([]byte(c.User), []byte(user))
	p := subtle.ConstantTimeCompare([]byte(c.Password), []byte(password))
	return u&p == 1
}

// EnsureCredential reads the writers' credential from dataDir/clickhouse.password (mode 0600), and makes it first if there is none.
// The directory must exist.
func EnsureCredential(dataDir string) (Credential, error) {
	path := filepath.Join(dataDir, passwordFile)
	credential, err := readCredential(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return credential, err
	}
	var secret [passwordHexBytes / 2]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return Credential{}, fmt.Errorf("make the store's password: %w", err)
	}
	if err := writeOnce(path, hex.EncodeToString(secret[:])+"\n"); err != nil {
		return Credential{}, fmt.Errorf("store the password: %w", err)
	}
	return readCredential(path) // whoever linked first has won
}

// ReadCredential reads the writers' credential of a store that has been started before.
func ReadCredential(dataDir string) (Credential, error) {
	if dataDir == "" {
		return Credential{}, errors.New("the store's credential: no directory is given (--data)")
	}
	credential, err := readCredential(filepath.Join(dataDir, passwordFile))
	if err != nil {
		return credential, fmt.Errorf("the store's credential: %w", err)
	}
	return credential, nil
}

func readCredential(path string) (Credential, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Credential{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Credential{}, fmt.Errorf("%s may be read by others (mode %v): run chmod 600 on it, or delete it to get a new one", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Credential{}, err
	}
	password := strings.TrimSpace(string(text))
	if _, err := hex.DecodeString(password); err != nil || len(password) != passwordHexBytes {
		return Credential{}, fmt.Errorf("%s does not hold 32 bytes in hex: delete it to get a new one", path)
	}
	return Credential{User: writerUser, Password: password}, nil
}

// writeOnce makes the file whole or not at all, and leaves one that appeared meanwhile alone.
func writeOnce(path, text string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".password-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(text)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
