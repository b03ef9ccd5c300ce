// The definitions of what "gateway config" prints for Kubernetes, which are YAML files of these modules.
module iam-service/gateway-crds

go 1.26.8

require (
	github.com/envoyproxy/gateway v1.9.1
	github.com/traefik/traefik/v3 v3.7.13
	istio.io/api v1.32.0
	sigs.k8s.io/gateway-api v1.6.1
)
