package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iam-service/internal/enrich"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/server"
	"iam-service/internal/token"
)

func policyExplainCommand(environ []string) *cobra.Command {
	var issuer, tenant, method, scheme, host, path, under string
	var about explained
	var clientIP netip.Addr
	var asJSON bool
	var at time.Time
	cmd := &cobra.Command{
		Use:   "explain --subject SUBJECT | --token-file FILE | --decision ID",
		Short: "Explain why a request is allowed or denied, over the current facts (needs DATABASE_URL alone)",
		Long: "Print the decision, the rules that fired, and of the rules that grant the first condition that did not hold, with its values.\n" +
			"The policy is the active one by the database, else the embedded one, or that of --policy. Of a token only the claims are\n" +
			"read: its signature is not verified here. --decision needs DECISIONS_DATABASE_URL. Issuers are trusted by RAUTH_URL and\n" +
			"TRUSTED_ISSUERS, as serve reads them; where RAUTH_URL is not set, the subject's issuer takes its place.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			now := at
			if at.IsZero() {
				now = time.Now()
			}
			if err := about.check(); err != nil {
				return err
			}
			needs := evaluatorNeeds
			needs.Decisions = about.decision != ""
			cfg, err := server.ReadConfig(environ, needs)
			if err != nil {
				return err
			}
			about.issuer = cmp.Or(issuer, cfg.RAuthURL)
			withoutRAuth := cfg.RAuthURL == ""
			q, given, err := about.build(ctx, &cfg, now)
			if err != nil {
				return err
			}
			if about.decision == "" || !at.IsZero() {
				q.Now = now
			}
			if q.Token != nil {
				if err := trustSubject(&cfg, q.Token.Issuer); err != nil {
					return err
				}
			}
			a, err := openEvaluator(ctx, &cfg)
			if err != nil {
				return err
			}
			defer a.close()
			if withoutRAuth && a.issuer != "" && a.issuer != issuer {
				fmt.Fprintf(cmd.ErrOrStderr(), "RAUTH_URL is not set: %s is trusted in its place\n", a.issuer)
			}
			if given != nil {
				a.issuerOf(given).Normalize(given) // as a gateway's token is, once it is verified
				if q.Token, err = explain.FromClaims(given, now); err != nil {
					return err
				}
			}
			if about.decision == "" {
				q.Tenant = tenant
				written := enrich.RequestFacts{Gateway: "explain", Method: method, Scheme: scheme, Host: host, Path: path, ClientIP: clientIP}
				if q.Request, err = written.Normalized(); err != nil {
					return err
				}
			}
			r, err := a.revision(ctx, under)
			if err != nil {
				return err
			}
			x := explanation{}
			if x.Explanation, err = explain.Over(a.facts, a.engine, a.issuers, a.headerMax).Explain(ctx, r, q); err != nil {
				return err
			}
			if given != nil {
				x.TokenRefused = a.rejected(given, now)
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(x)
			}
			if x.TokenRefused != "" {
				fmt.Fprintln(cmd.OutOrStdout(), "the gateway gets 401 whatever the policy decides:", x.TokenRefused)
			}
			x.Text(cmd.OutOrStdout())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&about.subject, "subject", "", "subject of their tokens, as in sub")
	f.StringVar(&issuer, "issuer", "", "issuer of their tokens; else RAUTH_URL")
	f.StringVar(&about.clientID, "client-id", "", "client of the token; alone: a program")
	f.StringVar(&about.claims, "claims", "", `further claims of the token, as JSON: {"acr":"2"}`)
	f.StringVar(&tenant, "tenant", "", "tenant of the request")
	f.StringVar(&method, "method", "GET", "method of the request")
	f.StringVar(&scheme, "scheme", "", "scheme of the request")
	f.StringVar(&host, "host", "", "host of the request")
	f.StringVar(&path, "path", "/", "path of the request")
	f.TextVar(&clientIP, "client-ip", netip.Addr{}, "address of the client")
	f.StringVar(&about.tokenFile, "token-file", "", "file with an access token (a JWT); - is standard input")
	f.StringVar(&about.decision, "decision", "", "id of a recorded decision, as in X-Decision-ID")
	f.TimeVar(&at, "at", time.Time{}, []string{time.RFC3339}, "time that the policy sees in input.now, such as 2026-11-28T03:00:00Z; the facts are those of now")
	f.StringVar(&under, "policy", "", "folder or bundle to explain under, instead of the active policy")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// explanation is one, and what comes before any policy.
type explanation struct {
	explain.Explanation
	TokenRefused string `json:"token_refused,omitempty"`
}

// rejected returns why a gateway's token with these claims would be rejected, its signature apart.
func (a *evaluator) rejected(claims map[string]any, now time.Time) string {
	if err := a.issuerOf(claims).CheckClaims(claims, now); err != nil {
		return err.Error()
	}
	return ""
}

func (a *evaluator) issuerOf(claims map[string]any) token.Issuer {
	return a.verified[slices.IndexFunc(a.verified, func(i token.Issuer) bool { return i.URL == claims["iss"] })]
}

// explained is whose request is explained: a subject, a token or a recorded decision.
type explained struct {
	issuer, subject, clientID, claims string
	tokenFile                         string
	decision                          string
}

// check reports whether exactly one of them is named.
func (x explained) check() error {
	ways := 0
	for _, given := range []bool{x.subject != "" || x.clientID != "", x.tokenFile != "", x.decision != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("name one of --subject (or --client-id), --token-file and --decision")
	}
	return nil
}

// build returns the request to explain, and all claims of the token if it is an issued one.
func (x explained) build(ctx context.Context, cfg *server.Config, now time.Time) (explain.Question, map[string]any, error) {
	switch {
	case x.decision != "":
		store, err := openDecisionStore(ctx, cfg)
		if err != nil {
			return explain.Question{}, nil, err
		}
		defer store.Close()
		d, found, err := store.Get(ctx, x.decision)
		if err == nil && !found {
			err = fmt.Errorf("there is no decision %s: it expired, or it never was recorded", x.decision)
		}
		if err != nil {
			return explain.Question{}, nil, err
		}
		q, err := explain.FromRecord(d)
		return q, nil, err
	case x.tokenFile != "":
		text, err := readAll(x.tokenFile)
		if err != nil {
			return explain.Question{}, nil, err
		}
		parts := strings.Split(strings.TrimSpace(string(text)), ".")
		if len(parts) != 3 {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT; an opaque token has no claims, use --subject")
		}
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT")
		}
		claims, err := object(body)
		if err != nil {
			return explain.Question{}, nil, errors.New("--token-file: it is no JWT")
		}
		t, err := explain.FromClaims(claims, now)
		return explain.Question{Token: t}, claims, err
	}
	more := map[string]any{}
	if x.claims != "" {
		var err error
		if more, err = object([]byte(x.claims)); err != nil {
			return explain.Question{}, nil, fmt.Errorf("--claims: %w", err)
		}
	}
	if x.issuer == "" {
		return explain.Question{}, nil, errors.New("name the issuer of the subject: --issuer or RAUTH_URL")
	}
	t, err := explain.Of(x.issuer, cmp.Or(x.subject, x.clientID), x.clientID, more, now)
	return explain.Question{Token: t}, nil, err
}

// object reads a JSON object; its numbers stay as they are written.
func object(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var o map[string]any
	err := d.Decode(&o)
	return o, err
}
