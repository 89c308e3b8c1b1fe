package assignment

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tributary/service/config"
)

// podName is what a pod is called: namespace/controller, by the rule of the exporters.
type podName struct{ workload, release string }

// serviceEntries are the addresses that stand for a Service: its own and its load balancer's, each of its TCP ports.
// external IPs are left out: whoever may write a Service may write anybody's address there.
func serviceEntries(s *corev1.Service, network string) []Entry {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var addresses []netip.Addr
	add := func(text string) {
		if a, err := netip.ParseAddr(text); err == nil { // not "None", as a Service without an address of its own has
			addresses = append(addresses, a)
		}
	}
	for _, ip := range s.Spec.ClusterIPs {
		add(ip)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		add(s.Status.LoadBalancer.Ingress[i].IP)
	}
	if len(addresses) == 0 {
		return nil
	}
	var out []Entry
	for _, p := range s.Spec.Ports {
		if ports, ok := tcpPort(p.Protocol, p.Port); ok {
			out = append(out, Entry{
				Workload: s.Namespace + "/" + s.Name, Instance: string(s.UID), Network: network, Addresses: append([]netip.Addr(nil), addresses...), Ports: ports,
			})
		}
	}
	return out
}

// sliceEntries are the endpoints of an EndpointSlice, each of its TCP ports: a pod's is the pod's, any other the Service's. They are never a whole address: several
// pods of a host's own network share one. A pod that is not known is left out.
func sliceEntries(s *discoveryv1.EndpointSlice, network string, pods map[string]podName) (out []Entry) {
	if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return nil
	}
	for i := range s.Endpoints {
		at := &s.Endpoints[i]
		e := Entry{Network: network}
		if at.Zone != nil {
			e.Zone = *at.Zone
		}
		if uid := targetPod(at); uid != "" {
			pod, known := pods[uid]
			if !known {
				continue
			}
			e.Workload, e.Instance, e.Release = pod.workload, uid, pod.release
		} else if service := s.Labels[discoveryv1.LabelServiceName]; service != "" {
			e.Workload = s.Namespace + "/" + service
		} else {
			continue // nobody's, as far as it says
		}
		for _, text := range at.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				e.Addresses = append(e.Addresses, a)
			}
		}
		for _, p := range s.Ports {
			if p.Port == nil || p.Protocol == nil {
				continue
			}
			if ports, ok := tcpPort(*p.Protocol, *p.Port); ok && len(e.Addresses) > 0 {
				one := e
				one.Ports, one.Addresses = ports, append([]netip.Addr(nil), e.Addresses...)
				out = append(out, one)
			}
		}
	}
	return out
}

// targetPod is the UID of the pod that is an endpoint, "" if it is none.
func targetPod(e *discoveryv1.Endpoint) string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return ""
	}
	return string(e.TargetRef.UID)
}

func tcpPort(protocol corev1.Protocol, port int32) (config.Ports, bool) {
	if protocol != "" && protocol != corev1.ProtocolTCP || port < 1 || port > 65535 {
		return config.Ports{}, false
	}
	return config.Ports{From: uint16(port), To: uint16(port)}, true
}

// same reports whether two entries say the same.
func same(a, b Entry) bool {
	return a.Workload == b.Workload && a.Instance == b.Instance && a.Zone == b.Zone && a.Region == b.Region && a.Release == b.Release &&
		a.Network == b.Network && a.Ports == b.Ports && a.From.Equal(b.From) && a.To.Equal(b.To) && slices.Equal(a.Addresses, b.Addresses)
}
