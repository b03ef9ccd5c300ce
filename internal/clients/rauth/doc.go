// Package rauth provisions clients in the identity provider, through R-Auth's admin API,
// which is also Ory Hydra's.
//
// It owns the calls (operations.go, list.go, request.go), their retries where a retry is safe
// (retry.go), the circuit breaker (breaker.go), which of a client's metadata are ours
// (metadata.go), how failures are classified (errors.go), and its credentials
// (credentials.go). It does not know what a client is for, nor what is in our tables.
//
// The kind of a failure is what the caller can do about it:
//
//	iam.Invalid      the provider rejects this metadata permanently
//	iam.NotFound     the client does not exist
//	iam.Conflict     a client of that id exists
//	iam.Unavailable  retry later; with iam.ErrOutcomeUnknown in its chain it may have been done
package rauth
