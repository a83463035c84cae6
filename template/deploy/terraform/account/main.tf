# Once for each AWS account, before anything else: the bucket that holds the state of Terraform, and the trust in GitHub's
# tokens. One account may have both environments, and several services. README.md says how to begin.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  # In which bucket of which region is said to `terraform init`, so that this folder fits every account.
  backend "s3" {
    key          = "account.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

variable "region" {
  description = "Where the state is kept, such as eu-central-1."
  type        = string
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { Service = "terraform", ManagedBy = "terraform" }
  }
}

data "aws_caller_identity" "this" {}

resource "aws_kms_key" "state" {
  description         = "The state of Terraform"
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "WhatThePoliciesOfTheAccountAllow"
      Effect    = "Allow"
      Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

resource "aws_s3_bucket" "state" {
  #checkov:skip=CKV_AWS_18:who reads the state is in CloudTrail; a bucket of access logs would need one of its own
  #checkov:skip=CKV_AWS_144:another region would be a second place to keep it secret in; versioning brings back what was lost
  #checkov:skip=CKV2_AWS_62:nothing waits for a change of the state
  bucket = "terraform-state-${data.aws_caller_identity.this.account_id}-${var.region}"
}

resource "aws_s3_bucket_versioning" "state" {
  bucket = aws_s3_bucket.state.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "state" {
  bucket = aws_s3_bucket.state.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.state.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "state" {
  bucket                  = aws_s3_bucket.state.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "state" {
  bucket = aws_s3_bucket.state.id
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = 365
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_policy" "state" {
  bucket = aws_s3_bucket.state.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyThroughTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.state.arn, "${aws_s3_bucket.state.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# AWS checks GitHub's certificate against its own list of authorities, so that no thumbprint has to be kept here.
resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}
