package kubernetes

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Whole are all objects of a resource with all they have, as types of a scheme.
func (c *Client) Whole(resource schema.GroupVersionResource, scheme *runtime.Scheme) (Objects, error) {
	config := rest.CopyConfig(c.config)
	version := resource.GroupVersion()
	config.GroupVersion = &version
	config.APIPath = "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return Objects{}, fmt.Errorf("client of %s: %w", resource.Resource, err)
	}
	from := cache.NewListWatchFromClient(client, resource.Resource, "", fields.Everything())
	return Objects{List: from.ListWithContext, Watch: from.WatchWithContext}, nil
}
