# Every image, for both architectures. From the repository's root:
#
#   docker buildx bake --file deploy/images/docker-bake.hcl               farthing, for this machine's architecture
#   docker buildx bake --file deploy/images/docker-bake.hcl release       all of them, for amd64 and arm64
#
# Variables come from the environment: VERSION, REVISION, SOURCE_DATE_EPOCH, and images pinned by digest, for example
#   PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...

variable "REGISTRY" {
  default = ""
}

variable "VERSION" {
  default = "local"
}

variable "REVISION" {
  default = "unknown"
}

variable "SOURCE_DATE_EPOCH" {
  default = "1767225600"
}

variable "PYTHON_IMAGE" {
  default = "python:3.11-slim-bookworm"
}

variable "VLLM_IMAGE" {
  default = "vllm/vllm-openai:v0.32.0"
}

group "default" {
  targets = ["farthing"]
}

group "release" {
  targets = ["farthing-release", "vllm-release", "demo-release"]
}

target "farthing" {
  context    = "."
  dockerfile = "deploy/images/farthing.Dockerfile"
  tags       = ["${REGISTRY}farthing:${VERSION}"]
  args = {
    PYTHON_IMAGE      = PYTHON_IMAGE
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
    VERSION           = VERSION
    REVISION          = REVISION
  }
}

target "vllm" {
  context    = "."
  dockerfile = "deploy/images/vllm.Dockerfile"
  tags       = ["${REGISTRY}farthing-vllm:${VERSION}"]
  args = {
    PYTHON_IMAGE      = PYTHON_IMAGE
    VLLM_IMAGE        = VLLM_IMAGE
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
  }
}

target "demo" {
  context    = "."
  dockerfile = "deploy/images/demo.Dockerfile"
  tags       = ["${REGISTRY}farthing-vllm-demo:${VERSION}"]
  args = {
    PYTHON_IMAGE = PYTHON_IMAGE
  }
}

# files keep the one time, layers too, so that equal sources give equal layers
target "_release" {
  platforms = ["linux/amd64", "linux/arm64"]
  output    = ["type=image,push=true,rewrite-timestamp=true"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
}

target "farthing-release" {
  inherits = ["farthing", "_release"]
}

target "vllm-release" {
  inherits = ["vllm", "_release"]
}

target "demo-release" {
  inherits = ["demo", "_release"]
}
