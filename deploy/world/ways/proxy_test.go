package ways

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
	"tributary/service/testenv"
)

func proxyTo(u *url.URL) func(*http.Request) (*url.URL, error) {
	if u == nil {
		return nil
	}
	return http.ProxyURL(u)
}

// forward is a proxy as offices have one: CONNECT for TLS, the whole URL for plain HTTP, with a password.
type forward struct {
	*httptest.Server
	connects, plain, kept atomic.Int64 // kept: plain requests that would use their connection again
}

func forwardProxy(t *testing.T) (*forward, *url.URL) {
	t.Helper()
	f := new(forward)
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	u, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("exporter", "secret")
	return f, u
}

func (f *forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	if user, password, _ := r.BasicAuth(); user != "exporter" || password != "secret" {
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
		return
	}
	r.Header.Del("Authorization")
	if r.Method != http.MethodConnect {
		f.plain.Add(1)
		if !r.Close {
			f.kept.Add(1)
		}
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, r)
		return
	}
	f.connects.Add(1)
	there, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	fmt.Fprint(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		io.Copy(there, buffered)
		there.Close()
	}()
	io.Copy(here, there)
}

// cutter passes bytes to a target; it can be closed, and can cut connections before an answer comes through.
type cutter struct {
	net.Listener
	target atomic.Value // string
	shut   atomic.Bool
	cutNth atomic.Int64 // cut every nth chunk of the answers; 0: none
	cuts   atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
}

func cut(t *testing.T, target string) *cutter {
	t.Helper()
	c := &cutter{Listener: listen(t, "127.0.0.1:0")}
	c.to(target)
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			go c.pass(conn)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		c.cutAll()
	})
	return c
}

// to changes where new connections go.
func (c *cutter) to(target string) { c.target.Store(target) }

func (c *cutter) pass(here net.Conn) {
	defer here.Close()
	if c.shut.Load() {
		return
	}
	there, err := net.Dial("tcp", c.target.Load().(string))
	if err != nil {
		return
	}
	defer there.Close()
	c.mu.Lock()
	c.conns = append(c.conns, here, there)
	c.mu.Unlock()
	go func() {
		io.Copy(there, here)
		there.Close()
	}()
	buffer := make([]byte, 64<<10)
	for n := int64(1); ; n++ {
		got, err := there.Read(buffer)
		if nth := c.cutNth.Load(); err != nil || nth > 0 && n%nth == 0 {
			if err == nil {
				c.cuts.Add(1)
			}
			return
		}
		if _, err := here.Write(buffer[:got]); err != nil {
			return
		}
	}
}

// cutAll ends every connection.
func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

const nginxConfig = `
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_max_body_size 8m;
  upstream collector { server %[3]s; keepalive 64; }
  server {
    listen %[2]s ssl;
    ssl_certificate %[4]s/cert.pem;
    ssl_certificate_key %[4]s/key.pem;
    location /tributary/ {
      proxy_pass http://collector/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`

// nginx ends TLS before a collector without it, and returns its address.
func nginx(t *testing.T, certificates, collector string) string {
	t.Helper()
	program := testenv.NeedCommand(t, "nginx", "install Debian's nginx-light (make packages)")
	address := ports.Address(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // its worker may be somebody else
		t.Fatal(err)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, address, collector, certificates), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(filepath.Join(dir, "error.log"))
			t.Logf("nginx says:\n%s", said)
		}
	})
	eventually(t, "nginx listens", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}
