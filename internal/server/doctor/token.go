package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// programToken gets a token by client credentials, for the gateways' audience. Its error shows nothing of the secret.
func (d *doctor) programToken(ctx context.Context, id, secret string) (string, error) {
	endpoint, err := d.verifier.TokenEndpoint()
	if err != nil {
		return "", err
	}
	c := clientcredentials.Config{
		ClientID: id, ClientSecret: secret, TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInHeader,
		EndpointParams: url.Values{"audience": {strings.Join(d.cfg.RAuthAudiences, " ")}},
	}
	t, err := c.Token(ctx)
	if r, is := errors.AsType[*oauth2.RetrieveError](err); is {
		return "", fmt.Errorf("the token endpoint returned %s", r.ErrorCode) // its message could repeat what was sent
	}
	if err != nil {
		return "", err
	}
	return t.AccessToken, nil
}
