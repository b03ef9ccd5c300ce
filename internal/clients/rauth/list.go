package rauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"iam-service/internal/iam"
)

// List calls each for all clients of the provider, of all owners.
func (c *Client) List(ctx context.Context, each func(iam.Registration) error) error {
	next := c.at("clients") + "?page_size=" + strconv.Itoa(pageSize)
	for pages := 0; next != ""; pages++ {
		if pages == maxPages {
			return c.badResponse("list", fmt.Errorf("its list has more than %d pages", maxPages))
		}
		var page []clientBody
		a, err := c.do(ctx, request{operation: "list", method: http.MethodGet, target: next, want: http.StatusOK}, &page)
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := each(r.Registration); err != nil {
				return err
			}
		}
		if next, err = c.nextPage(next, a.header); err != nil {
			return err
		}
	}
	return nil
}

// nextPage reads Link (RFC 8288). It never leaves the admin API.
func (c *Client) nextPage(from string, h http.Header) (string, error) {
	for _, link := range h.Values("Link") {
		for one := range strings.SplitSeq(link, ",") {
			target, params, _ := strings.Cut(strings.TrimSpace(one), ">")
			if !isNextLink(params) {
				continue
			}
			u, err := url.Parse(strings.TrimPrefix(target, "<"))
			base, err2 := url.Parse(from)
			if err != nil || err2 != nil {
				return "", c.badResponse("list", errors.New("its link to the next page is invalid"))
			}
			u = base.ResolveReference(u)
			if u.Host != c.base.Host || u.Scheme != c.base.Scheme || u.String() == from {
				return "", c.badResponse("list", fmt.Errorf("its link to the next page leads to %s%s", u.Host, u.Path))
			}
			// Only the query is used: behind a prefix the provider does not know its own path.
			base.RawQuery = u.RawQuery
			return base.String(), nil
		}
	}
	return "", nil
}

// isNextLink reads the parameters of a link: rel may be quoted and have several words.
func isNextLink(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "rel") && slices.Contains(strings.Fields(strings.Trim(value, `"`)), "next") {
			return true
		}
	}
	return false
}

// isList reports what is no page of a list of clients.
func isList(body []byte) error {
	var page []struct {
		ID string `json:"client_id"`
	}
	if json.Unmarshal(body, &page) != nil || page == nil || len(page) > 0 && page[0].ID == "" {
		return unavailable("bad_response", errors.New("its response is no list of clients"))
	}
	return nil
}
