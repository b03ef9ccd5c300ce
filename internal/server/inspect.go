package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-service/internal/policy"
)

// This file is what doctor needs of the settings: the same code as serve's, and nothing that is opened for good.

// CheckPolicy loads the policy that the settings name, as a start does: signature, compilation, acceptance cases. It
// returns the id of its revision; "" where OPA fetches it.
func (cfg *Config) CheckPolicy(ctx context.Context) (revision string, err error) {
	if cfg.opaFetches {
		return "", nil
	}
	c := cfg.engine()
	c.Log = slog.New(slog.DiscardHandler)
	engine, err := policy.NewEngine(c)
	if err != nil {
		return "", fmt.Errorf("GATEWAY_HEADERS: %w", err)
	}
	if cfg.PolicyBundle == "" {
		err = OfferEmbedded(ctx, engine)
	} else if err = engine.SubmitPath(ctx, cfg.PolicyBundle); err != nil {
		err = fmt.Errorf("POLICY_BUNDLE %s: %w", cfg.PolicyBundle, err)
	}
	if err != nil {
		return "", err
	}
	return engine.Revision().ID, nil
}

// TrustsNoGateway reports whether no gateway is trusted.
func (cfg *Config) TrustsNoGateway() bool { return cfg.trustsNoGateway() }

// SendsSecret reports whether gateways must send GATEWAY_SECRET.
func (cfg *Config) SendsSecret() bool { return len(cfg.gatewaySecrets) > 0 }

// OpsBearer is a token that the operators' listener accepts; "": it wants none.
func (cfg *Config) OpsBearer() string {
	if len(cfg.opsTokens) == 0 {
		return ""
	}
	return string(cfg.opsTokens[0])
}

// Certificate is a certificate in a file that a setting names.
type Certificate struct {
	Variable, File string
	Raw            []byte // DER
	NotBefore      time.Time
	NotAfter       time.Time
	Err            error // it cannot be read
}

// Certificates are the certificates of all files that the settings name.
func (cfg *Config) Certificates() []Certificate {
	var all []Certificate
	for _, f := range []struct{ variable, file string }{
		{"GATEWAY_CERT_FILE", cfg.GatewayCert},
		{"GATEWAY_CLIENT_CA_FILE", cfg.GatewayClientCA},
		{"EXT_AUTHZ_CERT_FILE", cfg.ExtAuthzCertFile},
		{"EXT_AUTHZ_CLIENT_CA_FILE", cfg.ExtAuthzClientCAFile},
		{"NATS_CERT_FILE", cfg.NATSCertFile},
		{"NATS_CA_FILE", cfg.NATSCAFile},
	} {
		if f.file != "" {
			all = append(all, certificatesOf(f.variable, f.file)...)
		}
	}
	return all
}

func certificatesOf(variable, file string) []Certificate {
	text, err := os.ReadFile(file)
	if err != nil {
		return []Certificate{{Variable: variable, File: file, Err: err}}
	}
	var all []Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c := Certificate{Variable: variable, File: file, Raw: block.Bytes}
		if parsed, err := x509.ParseCertificate(block.Bytes); err != nil {
			c.Err = err
		} else {
			c.NotBefore, c.NotAfter = parsed.NotBefore, parsed.NotAfter
		}
		all = append(all, c)
	}
	return all
}

// Setting is a variable with its value.
type Setting struct {
	Name   string
	Value  string // of a secret "(set)"
	Secret bool
}

// Settings are the variables of environ that the program reads, in the order of its table, without secrets.
func Settings(environ []string) []Setting {
	vars := env.ToMap(environ)
	var all []Setting
	for f := range fieldsOf(Config{}) {
		name, secret := f.Tag.Get("env"), f.Tag.Get("secret") == "true"
		if value, set := vars[name]; set && name != "" {
			if secret {
				value = "(set)"
			}
			all = append(all, Setting{Name: name, Value: value, Secret: secret})
		}
		if file, set := vars[name+"_FILE"]; set && secret {
			all = append(all, Setting{Name: name + "_FILE", Value: file})
		}
	}
	return all
}

// SecretValues are the values of all secrets in environ and in the files that it names: what must not leave the host.
func SecretValues(environ []string) []string {
	vars := env.ToMap(environ)
	var all []string
	file := func(name string) {
		if b, err := os.ReadFile(name); err == nil {
			all = append(all, strings.TrimSpace(string(b)))
		}
	}
	for f := range fieldsOf(Config{}) {
		name := f.Tag.Get("env")
		if f.Tag.Get("secret") != "true" {
			continue
		}
		if v := vars[name]; v != "" {
			all = append(all, v)
		}
		if v := vars[name+"_FILE"]; v != "" {
			file(v)
		}
	}
	for _, name := range []string{"RAUTH_ADMIN_TOKEN_FILE", "NATS_CREDENTIALS_FILE"} {
		if v := vars[name]; v != "" {
			file(v)
		}
	}
	return all
}
