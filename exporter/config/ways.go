package config

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// httpsPort is where a collector that is asked for HTTPS listens.
const httpsPort = "4748"

// udpPort is where a collector that is asked for UDP listens.
const udpPort = "4749"

func (c *Config) checkWays() error {
	if len(c.Ways.Order) == 0 {
		return errors.New("--transports is empty: name grpc, https, or both in the order of preference; udp before them where batches may be lost")
	}
	for i, way := range c.Ways.Order {
		switch {
		case way != "grpc" && way != "https" && way != "udp":
			return fmt.Errorf("--transports %q is not grpc, https or udp", way)
		case way == "udp" && i > 0:
			return errors.New("--transports names udp after another way: it is first or not at all, because nothing falls back to it")
		}
		for _, before := range c.Ways.Order[:i] {
			if way == before {
				return fmt.Errorf("--transports names %s twice", way)
			}
		}
	}
	if _, err := c.HTTPSURL(); err != nil {
		return err
	}
	if _, err := c.HTTPProxy(); err != nil {
		return err
	}
	if _, err := c.UDPAddress(); err != nil {
		return err
	}
	if c.Ways.ProbeEvery < time.Second || c.Ways.ProbeEvery > 24*time.Hour {
		return fmt.Errorf("--transport-probe-every %v is not between 1s and 24h", c.Ways.ProbeEvery)
	}
	return nil
}

// HTTPSURL is where the collector is reached over HTTPS: plain HTTP only where gRPC would be plain too.
func (c *Config) HTTPSURL() (*url.URL, error) {
	if c.Ways.HTTPS == "" {
		host, _, err := net.SplitHostPort(c.Collector)
		if err != nil {
			return nil, fmt.Errorf("--collector %q is not HOST:PORT", c.Collector)
		}
		scheme := "https"
		if !c.Encrypted() {
			scheme = "http"
		}
		return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, httpsPort)}, nil
	}
	u, err := url.Parse(c.Ways.HTTPS)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "":
		return nil, fmt.Errorf("--collector-https is not a URL such as https://collector.example:4748")
	case u.Scheme == "http" && !c.Insecure && beyondHost(net.JoinHostPort(u.Hostname(), "0")):
		return nil, fmt.Errorf("--collector-https %s is plain text beyond this host: write https, or accept the risk with --insecure", u)
	}
	return u, nil
}

// UDPAddress is where the collector takes datagrams.
func (c *Config) UDPAddress() (string, error) {
	if c.Ways.UDP == "" {
		host, _, err := net.SplitHostPort(c.Collector)
		if err != nil {
			return "", fmt.Errorf("--collector %q is not HOST:PORT", c.Collector)
		}
		return net.JoinHostPort(host, udpPort), nil
	}
	if host, port, err := net.SplitHostPort(c.Ways.UDP); err != nil || host == "" || port == "" {
		return "", fmt.Errorf("--collector-udp %q is not HOST:PORT, such as collector.example:4749", c.Ways.UDP)
	}
	return c.Ways.UDP, nil
}

// HTTPProxy returns what finds the proxy of a request.
func (c *Config) HTTPProxy() (func(*http.Request) (*url.URL, error), error) {
	if c.Ways.Proxy == "" {
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(c.Ways.Proxy)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, errors.New("--proxy is not a URL such as http://proxy.example:3128")
	}
	return http.ProxyURL(u), nil
}
