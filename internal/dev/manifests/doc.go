// Package manifests tests deploy/kubernetes: it builds each overlay with kustomize, decodes it strictly by the types
// of Kubernetes, and applies the policies of deploy/policies. It owns no code of the program, and knows no cluster.
package manifests
