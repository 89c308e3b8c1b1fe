package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"tributary/service/log"
)

// Options say how to reach the API server.
type Options struct {
	Kubeconfig string // file; "" is the configuration that a pod finds inside a cluster
	Program    string // user agent: how the API server's audit log calls us
}

// Client reaches one API server. Its methods may be called from any goroutine.
type Client struct {
	config   *rest.Config
	http     *http.Client // one for all kinds of objects, so that they share a connection
	metadata metadata.Interface
}

// Connect reads the configuration. It opens no connection: an API server that is away is no error here.
func Connect(o Options, logger *slog.Logger) (*Client, error) {
	// client-go logs through one logger a process, to stderr if nobody says otherwise.
	klog.SetLogger(logr.FromSlogHandler(log.Limited(logger.With(log.Component, "kubernetes"), 10*time.Second).Handler()))
	config, err := configOf(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = o.Program
	config.WarningHandler = rest.NoWarnings{}
	c := &Client{config: config}
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, fmt.Errorf("configuration of the Kubernetes API: %w", err)
	}
	if c.metadata, err = metadata.NewForConfigAndClient(config, c.http); err != nil {
		return nil, fmt.Errorf("configuration of the Kubernetes API: %w", err)
	}
	return c, nil
}

func configOf(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			err = errors.New("this is no pod with a service account: give a kubeconfig file")
		}
		if err != nil {
			return nil, fmt.Errorf("configuration of the Kubernetes API: %w", err)
		}
		return config, nil
	}
	if _, err := os.ReadFile(kubeconfig); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return config, nil
}

// Host is where the API server is.
func (c *Client) Host() string { return c.config.Host }

// Objects are the objects of one kind.
type Objects struct {
	List  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	Watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// Metadata are the objects of a resource as metav1.PartialObjectMetadata, those that a field selector ("" all) chooses.
func (c *Client) Metadata(resource schema.GroupVersionResource, fields string) Objects {
	getter := c.metadata.Resource(resource)
	return Objects{
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			list, err := getter.List(ctx, o)
			if err != nil {
				return nil, err // not a typed nil
			}
			return list, nil
		},
		Watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			return getter.Watch(ctx, o)
		},
	}
}

// checkMost bounds what Check reads.
const checkMost = 1000

// Check lists and watches objects for a moment, and says how many there are; of more than 1,000 it says so many.
func (c *Client) Check(ctx context.Context, o Objects) (n int, err error) {
	list, err := o.List(ctx, metav1.ListOptions{Limit: checkMost})
	if err != nil {
		return 0, fmt.Errorf("list: %w", err)
	}
	from, err := meta.ListAccessor(list)
	if err != nil {
		return 0, fmt.Errorf("list: %w", err)
	}
	second := int64(1)
	w, err := o.Watch(ctx, metav1.ListOptions{TimeoutSeconds: &second, ResourceVersion: from.GetResourceVersion()})
	if err != nil {
		return 0, fmt.Errorf("watch: %w", err)
	}
	w.Stop()
	return meta.LenList(list), nil
}
