package settings

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"tributary/service/files"
)

// Path is where the collector's API has the settings: GET answers a Status; PUT applies the settings file in its body, with the credential
// as bearer token.
const Path = "/v1/settings"

const (
	credentialName   = "settings.credential"
	credentialBytes  = 32
	credentialHeader = "Tributary-Credential" // of a 401: the file that has it
)

// Register adds the settings to the collector's API.
func (s *Settings) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET "+Path, s.answerStatus)
	mux.HandleFunc("PUT "+Path, s.answerApply)
}

func (s *Settings) answerStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.Status()) // a client that went away
}

func (s *Settings) answerApply(w http.ResponseWriter, r *http.Request) {
	credential, err := s.credential()
	if err != nil {
		http.Error(w, "no settings can be applied: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if subtle.ConstantTimeCompare([]byte(token), []byte(credential)) != 1 {
		path, _ := filepath.Abs(filepath.Join(s.dir, credentialName))
		w.Header().Set(credentialHeader, path)
		http.Error(w, "settings are applied with the credential in "+path, http.StatusUnauthorized)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxFileBytes))
	if err != nil {
		http.Error(w, fmt.Sprintf("the settings file is cut off, or larger than %d bytes", MaxFileBytes), http.StatusRequestEntityTooLarge)
		return
	}
	generation, err := s.Apply("that was sent", data)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	fmt.Fprintln(w, generation)
}

// credential reads what only the collector's user can, and makes it where it is missing: on a shared host loopback is no border.
func (s *Settings) credential() (string, error) {
	if s.dir == "" {
		return "", errNowhere
	}
	path := filepath.Join(s.dir, credentialName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var fresh [credentialBytes]byte
		_, _ = rand.Read(fresh[:]) // never fails (crypto/rand)
		data = []byte(hex.EncodeToString(fresh[:]))
		if err = os.MkdirAll(s.dir, 0o750); err == nil {
			err = files.Write(path, data)
		}
	}
	if err != nil {
		return "", fmt.Errorf("credential: %w", err)
	}
	if text := strings.TrimSpace(string(data)); len(text) == 2*credentialBytes {
		return text, nil
	}
	return "", fmt.Errorf("%s is not what a collector writes there: remove it", path)
}
