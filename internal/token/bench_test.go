//go:build linux

package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	benchRounds   = 10
	benchPerRound = 2000
)

// BenchmarkVerification prints the CPU of one verification of a token that is not cached, by algorithm, in turn within
// each round: the bare signature with its hash by the standard library; the JWT library alone, claims as a map; ours, with
// key, claims, audience, times and the claims as terms.
func BenchmarkVerification(b *testing.B) {
	p := provider(b)
	v, err := New(Config{Issuers: []Issuer{{URL: p.Issuer, Audiences: []string{audience}}}, Log: slog.New(slog.DiscardHandler), Entries: 1, Wait: 5 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(v.Close)
	if err := v.Start(ctx, time.Now().Add(5*time.Second)); err != nil {
		b.Fatal(err)
	}
	library := jwt.NewParser(jwt.WithValidMethods(algorithms), jwt.WithJSONNumber(), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	for _, alg := range algorithms {
		var tokens [2]string // two, so that neither is cached when its turn comes
		for i := range tokens {
			if tokens[i], err = p.Mint(alg, map[string]any{"sub": fmt.Sprintf("user-%d", i), "client_id": "web", "scope": "openid profile", "sid": "3f1c"}); err != nil {
				b.Fatal(err)
			}
		}
		kid, private := p.Private(alg)
		bare := bareSignature(b, private.Public(), tokens[0])
		known := private.Public()
		measured := [3]func(n int){
			func(int) { bare() },
			func(n int) {
				if _, err := library.ParseWithClaims(tokens[n%2], jwt.MapClaims{}, func(t *jwt.Token) (any, error) {
					if t.Header["kid"] != kid {
						return nil, fmt.Errorf("kid %v", t.Header["kid"])
					}
					return known, nil
				}); err != nil {
					b.Fatal(err)
				}
			},
			func(n int) {
				if _, err := v.Verify(ctx, tokens[n%2], "", time.Now().Add(time.Second)); err != nil {
					b.Fatal(err)
				}
			},
		}
		var us [3][]float64
		var above []float64
		var allocs [3]float64
		for round := range benchRounds + 1 {
			var took [3]float64
			for i, do := range measured {
				began := benchCPU(b)
				for n := range benchPerRound {
					do(n)
				}
				took[i] = float64((benchCPU(b) - began).Nanoseconds()) / 1000 / benchPerRound
				n := 0
				allocs[i] = testing.AllocsPerRun(10, func() { do(n); n++ })
			}
			if round == 0 {
				continue // it fills the caches
			}
			for i := range us {
				us[i] = append(us[i], took[i])
			}
			above = append(above, took[2]-took[0])
		}
		for _, list := range [][]float64{us[0], us[1], us[2], above} {
			slices.Sort(list)
		}
		fmt.Printf("verification: %-5s bare signature %6.1f µs, JWT library %6.1f µs, ours %6.1f µs, above the signature %5.1f µs (middle half %.1f to %.1f), %.0f, %.0f, %.0f allocations\n",
			alg, us[0][benchRounds/2], us[1][benchRounds/2], us[2][benchRounds/2], above[benchRounds/2], above[benchRounds/4], above[3*benchRounds/4], allocs[0], allocs[1], allocs[2])
	}
}

// bareSignature verifies the signature of a token and hashes what it signs; all else is prepared.
func bareSignature(b *testing.B, public crypto.PublicKey, raw string) func() {
	b.Helper()
	dot := strings.LastIndexByte(raw, '.')
	signed := []byte(raw[:dot])
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	var verify func() bool
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])})
		if err != nil {
			b.Fatal(err)
		}
		verify = func() bool {
			sum := sha256.Sum256(signed)
			return ecdsa.VerifyASN1(public, sum[:], der)
		}
	case *rsa.PublicKey:
		verify = func() bool {
			sum := sha256.Sum256(signed)
			return rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) == nil
		}
	case ed25519.PublicKey:
		verify = func() bool { return ed25519.Verify(public, signed, signature) }
	default:
		b.Fatalf("%T", public)
	}
	return func() {
		if !verify() {
			b.Fatal("the signature is wrong")
		}
	}
}

// benchCPU is the processor time that this process has used.
func benchCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
