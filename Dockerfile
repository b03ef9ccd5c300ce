# A static program in an empty image, as an ordinary user. Build it with the Go
# version that go.mod names; certificates come along for https to the issuers.
#
# Nothing of a base image runs: only the build stage has one. A release pins it by digest, which CI resolves and
# records, since a tag can be moved: GO_IMAGE=golang:1.26-bookworm@sha256:…  (make image refuses a tag alone where
# CI is set). What is built in it is pinned by go.sum.
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
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X iam-service/internal/server.Version=${VERSION}" -o /iam-service ./cmd/iam-service

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /iam-service /iam-service
USER 65532:65532
EXPOSE 8080 8081 9090
HEALTHCHECK --interval=10s --timeout=3s CMD ["/iam-service", "healthcheck"]
ENTRYPOINT ["/iam-service"]
CMD ["serve"]
