// The definitions of ServiceMonitor and PrometheusRule, which are YAML files of the Prometheus Operator's module.
module iam-service/crds

go 1.26.8

require github.com/prometheus-operator/prometheus-operator v0.85.0
