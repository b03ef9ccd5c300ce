# METADATA
# description: What the manifests of deploy/kubernetes must hold. input.objects are the objects of one overlay.
package manifests

workloads contains o if {
	some o in input.objects
	o.kind in {"Deployment", "Job"}
}

pods contains [o, o.spec.template.spec] if some o in workloads

containers contains [o, c] if {
	some [o, pod] in pods
	some c in pod.containers
}

# With those that run before the others.
all_containers := containers | {[o, c] | some [o, pod] in pods; some c in pod.initContainers}

images contains c.image if some [_, c] in all_containers

deny contains sprintf("%s %s: runs as root", [o.kind, o.metadata.name]) if {
	some [o, pod] in pods
	not pod.securityContext.runAsNonRoot == true
}

deny contains sprintf("%s %s: seccompProfile is not RuntimeDefault", [o.kind, o.metadata.name]) if {
	some [o, pod] in pods
	not pod.securityContext.seccompProfile.type == "RuntimeDefault"
}

deny contains sprintf("%s %s: mounts a service-account token", [o.kind, o.metadata.name]) if {
	some [o, pod] in pods
	not pod.automountServiceAccountToken == false
}

deny contains sprintf("%s %s: the root file system is writable", [o.kind, o.metadata.name]) if {
	some [o, c] in all_containers
	not c.securityContext.readOnlyRootFilesystem == true
}

deny contains sprintf("%s %s: capabilities are not dropped", [o.kind, o.metadata.name]) if {
	some [o, c] in all_containers
	not "ALL" in object.get(c, ["securityContext", "capabilities", "drop"], [])
}

deny contains sprintf("%s %s: the image has no fixed tag", [o.kind, o.metadata.name]) if {
	some [o, c] in all_containers
	not regex.match(`(:[^/:]+|@sha256:[0-9a-f]{64})$`, c.image)
}

deny contains sprintf("%s %s: the image has no fixed tag", [o.kind, o.metadata.name]) if {
	some [o, c] in all_containers
	endswith(c.image, ":latest")
}

deny contains sprintf("%s %s: no %s of %s", [o.kind, o.metadata.name, group, resource]) if {
	some [o, c] in all_containers
	some group in ["requests", "limits"]
	some resource in ["cpu", "memory"]
	not c.resources[group][resource]
}

deny contains sprintf("%s %s: %s is a secret in plain text", [o.kind, o.metadata.name, e.name]) if {
	some [o, c] in all_containers
	some e in c.env
	regex.match(`(_URL|_SECRET|PASSWORD|_KEY)$`, e.name)
	e.value
}

deny contains sprintf("%s: no %s", [o.metadata.name, probe]) if {
	some [o, c] in containers
	o.kind == "Deployment"
	some probe in ["startupProbe", "readinessProbe", "livenessProbe"]
	not c[probe]
}

deny contains sprintf("the images differ: %v", [images]) if count(images) > 1

deny contains sprintf("Job %s: its name does not end with the tag of its image %s", [o.metadata.name, c.image]) if {
	some [o, c] in containers
	o.kind == "Job"
	tag := regex.find_all_string_submatch_n(`:([^:/@]+)(@sha256:[0-9a-f]{64})?$`, c.image, 1)[0][1]
	not endswith(o.metadata.name, concat("", ["-", tag]))
}

deny contains sprintf("Job %s: no ttlSecondsAfterFinished", [o.metadata.name]) if {
	some o in workloads
	o.kind == "Job"
	not o.spec.ttlSecondsAfterFinished
}

# A Job's template cannot be changed, so what it names must not change with its contents.
deny contains sprintf("Job %s: the name of its Secret %s carries a hash", [o.metadata.name, volume.secret.secretName]) if {
	some [o, pod] in pods
	o.kind == "Job"
	some volume in pod.volumes
	regex.match(`-[a-z0-9]{10}$`, volume.secret.secretName)
}

# A Deployment that would fail before its migration has ended would be rolled back.
deny contains sprintf("%s: progressDeadlineSeconds is not above activeDeadlineSeconds of %s", [o.metadata.name, job.metadata.name]) if {
	some o in workloads
	o.kind == "Deployment"
	some job in workloads
	job.kind == "Job"
	object.get(o.spec, "progressDeadlineSeconds", 600) <= job.spec.activeDeadlineSeconds
}

deny contains sprintf("%s: no init container waits for the schema", [o.metadata.name]) if {
	some [o, pod] in pods
	o.kind == "Deployment"
	waits := [c | some c in pod.initContainers; array.slice(c.args, 0, 2) == ["migrate", "wait"]]
	count(waits) == 0
}

deny contains sprintf("%s: maxUnavailable is not 0", [o.metadata.name]) if {
	some o in workloads
	o.kind == "Deployment"
	not o.spec.strategy.rollingUpdate.maxUnavailable == 0
}

deny contains sprintf("%s: the grace period is not above SHUTDOWN_DELAY and SHUTDOWN_GRACE", [o.metadata.name]) if {
	some [o, pod] in pods
	o.kind == "Deployment"
	some c in pod.containers
	some source in c.envFrom
	some config in input.objects
	config.kind == "ConfigMap"
	config.metadata.name == source.configMapRef.name
	stop := time.parse_duration_ns(config.data.SHUTDOWN_DELAY) + time.parse_duration_ns(config.data.SHUTDOWN_GRACE)
	object.get(pod, "terminationGracePeriodSeconds", 30) * 1000000000 <= stop
}

deny contains sprintf("Service %s: no container has port %v", [s.metadata.name, p.targetPort]) if {
	some s in input.objects
	s.kind == "Service"
	some p in s.spec.ports
	not p.targetPort in {port.name | some [_, c] in containers; some port in c.ports}
}

deny contains sprintf("%s: no NetworkPolicy names callers of port %s", [o.metadata.name, port.name]) if {
	some [o, c] in containers
	some port in c.ports
	not limited(o, port.containerPort)
}

limited(o, number) if {
	some n in input.objects
	n.kind == "NetworkPolicy"
	n.spec.podSelector.matchLabels.app == o.spec.template.metadata.labels.app
	some rule in n.spec.ingress
	count(rule.from) > 0
	some p in rule.ports
	p.port == number
}

# ports that a Service of kind https or http has unless its URL names one.
default_ports := {"http": 80, "https": 443, "nats": 4222}

deny contains sprintf("no NetworkPolicy lets the service reach port %v of %s", [port, name]) if {
	some config in input.objects
	config.kind == "ConfigMap"
	some name, value in config.data
	endswith(name, "_URL")
	parts := regex.find_all_string_submatch_n(`^([a-z]+)://[^/:]+(:([0-9]+))?`, value, 1)[0]
	port := url_port(parts)
	not reachable(port)
}

url_port(parts) := to_number(parts[3]) if parts[3] != ""

url_port(parts) := default_ports[parts[1]] if parts[3] == ""

reachable(port) if {
	some n in input.objects
	n.kind == "NetworkPolicy"
	n.spec.podSelector.matchLabels.app == "iam-service"
	some rule in n.spec.egress
	some p in rule.ports
	p.port == port
}
