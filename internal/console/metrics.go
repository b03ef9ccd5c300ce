package console

import (
	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/telemetry"
)

// metrics of the console.
type metrics struct {
	logins    *prometheus.CounterVec
	refreshes *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		logins: telemetry.CounterVec(r, "iam_console_logins_total",
			"Logins at the console by result: ok, or the error that the page shows.", "result",
			"ok", accessDenied, loginExpired, loginFailed, providerUnavailable),
		refreshes: telemetry.CounterVec(r, "iam_console_refreshes_total",
			"Access tokens of the console's sessions that were refreshed at the identity provider, by result; after ended the person signs in again.", "result",
			"ok", "ended", "unavailable"),
	}
}
