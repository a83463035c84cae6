# Two buckets: backups, which nobody can delete before their time, and the logs of who asked for what.

variable "name" {
  type = string
}

variable "production" {
  type = bool
}

variable "protected" {
  type = bool
}

variable "key_arn" {
  type = string
}

data "aws_caller_identity" "this" {}

locals {
  buckets = { backups = aws_s3_bucket.backups, logs = aws_s3_bucket.logs }
  writers = { backups = "logging.s3.amazonaws.com", balancer = "logdelivery.elasticloadbalancing.amazonaws.com" }
}

resource "aws_s3_bucket" "backups" {
  #checkov:skip=CKV_AWS_144:another region is a choice about where people's data may be, and so one that you make
  #checkov:skip=CKV2_AWS_62:nothing waits for a backup; an alarm asks how old the last one is
  bucket              = "${var.name}-backups-${data.aws_caller_identity.this.account_id}"
  object_lock_enabled = true
}

# COMPLIANCE binds everybody, the owner of the account included; GOVERNANCE whoever has no permission to bypass it.
resource "aws_s3_bucket_object_lock_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id
  rule {
    default_retention {
      mode = var.production ? "COMPLIANCE" : "GOVERNANCE"
      days = var.production ? 14 : 1
    }
  }
  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV_AWS_18:a bucket that logs who reads it would log its own logging
  #checkov:skip=CKV_AWS_144:logs are kept where what they tell of happened
  #checkov:skip=CKV_AWS_145:a load balancer writes only where S3's own key encrypts
  #checkov:skip=CKV2_AWS_62:nothing waits for a log
  bucket        = "${var.name}-logs-${data.aws_caller_identity.this.account_id}"
  force_destroy = !var.protected
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets
  bucket   = each.value.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.key_arn
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.buckets
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# The service deletes backups by its own rules, which leaves their versions; these go when no lock holds them any more.
resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.buckets
  bucket   = each.value.id
  rule {
    id     = "old"
    status = "Enabled"
    filter {}
    dynamic "expiration" {
      for_each = each.key == "logs" ? [365] : []
      content {
        days = expiration.value
      }
    }
    noncurrent_version_expiration {
      noncurrent_days = 14
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_logging" "backups" {
  bucket        = aws_s3_bucket.backups.id
  target_bucket = aws_s3_bucket.logs.id
  target_prefix = "backups/"
  depends_on    = [aws_s3_bucket_policy.this]
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets
  bucket   = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([{
      Sid       = "OnlyThroughTls"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:*"
      Resource  = [each.value.arn, "${each.value.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
      }], each.key == "logs" ? [for prefix, writer in local.writers : {
      Sid       = "Logs${title(prefix)}"
      Effect    = "Allow"
      Principal = { Service = writer }
      Action    = "s3:PutObject"
      Resource  = "${each.value.arn}/${prefix}/*"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
    }] : [])
  })
}

output "backups" {
  value = { name = aws_s3_bucket.backups.id, arn = aws_s3_bucket.backups.arn }
}

output "logs" {
  description = "Once it may be written to."
  value       = aws_s3_bucket.logs.id
  depends_on  = [aws_s3_bucket_policy.this]
}
