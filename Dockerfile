# A static binary in an empty image, run as an unprivileged user. The Go version must be at least that of go.mod;
# the CA certificates are for https to the issuers.
#
# Only the build stage has a base image. A release pins it by digest, because a tag can be moved:
# GO_IMAGE=golang:1.26-bookworm@sha256:…  With CI set, "make image" fails for a tag without a digest. go.sum pins the
# dependencies.
ARG GO_IMAGE=golang:1.26-bookworm
FROM ${GO_IMAGE} AS build
ENV GOTOOLCHAIN=local GOFLAGS=-mod=readonly
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY migrations migrations
COPY policies policies
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X iam-service/internal/server.Version=${VERSION}" -o /iam-service ./cmd/iam-service

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /iam-service /iam-service
USER 65532:65532
EXPOSE 8080 8081 9090
HEALTHCHECK --interval=10s --timeout=3s CMD ["/iam-service", "healthcheck"]
ENTRYPOINT ["/iam-service"]
CMD ["serve"]
