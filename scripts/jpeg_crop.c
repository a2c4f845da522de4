/* A part of a JPEG by libjpeg-turbo, for gluon_bot/data/jpeg.py. Compiled by install.sh where jpeglib.h is installed.
   Each function returns 1, or 0 for an image that is not plain or does not decode without a warning. */
#include <stdio.h>
#include <setjmp.h>
#include <string.h>
#include <jpeglib.h>

typedef struct { struct jpeg_error_mgr manager; jmp_buf place; } failure;

static void fail(j_common_ptr image) { longjmp(((failure *)image->err)->place, 1); }

static void fail_at_warnings(j_common_ptr image, int level) {
  if (level < 0) fail(image);
}

/* Read the header: a greyscale or RGB image of one scan that no EXIF orientation turns. */
static int open_plain(struct jpeg_decompress_struct *image, failure *failed, const unsigned char *data, size_t bytes) {
  image->err = jpeg_std_error(&failed->manager);
  failed->manager.error_exit = fail;
  failed->manager.emit_message = fail_at_warnings;
  jpeg_create_decompress(image);
  jpeg_save_markers(image, JPEG_APP0 + 1, 6);
  jpeg_mem_src(image, (unsigned char *)data, bytes);
  jpeg_read_header(image, TRUE);
  for (jpeg_saved_marker_ptr marker = image->marker_list; marker; marker = marker->next)
    if (marker->data_length >= 4 && !memcmp(marker->data, "Exif", 4)) return 0;
  return !jpeg_has_multiple_scans(image) && (image->num_components == 1 || image->num_components == 3);
}

/* found: height, width, columns of a block; a part begins at a multiple of them. */
int jpeg_size(const unsigned char *data, size_t bytes, int *found) {
  struct jpeg_decompress_struct image;
  failure failed;
  volatile int plain = 0;
  memset(&image, 0, sizeof image);
  if (!setjmp(failed.place) && open_plain(&image, &failed, data, bytes)) {
    found[0] = image.image_height;
    found[1] = image.image_width;
    found[2] = DCTSIZE * image.max_h_samp_factor;
    plain = 1;
  }
  jpeg_destroy_decompress(&image);
  return plain;
}

/* box: top, left, height, width in pixels. pixels: height * width * 3 bytes, blue, green, red. */
int jpeg_crop(const unsigned char *data, size_t bytes, const int *box, unsigned char *pixels) {
  struct jpeg_decompress_struct image;
  failure failed;
  volatile int whole = 0;
  memset(&image, 0, sizeof image);
  if (!setjmp(failed.place) && open_plain(&image, &failed, data, bytes)) {
    JDIMENSION left = box[1], width = box[3];
    int end = box[0] + box[2];
    image.out_color_space = JCS_EXT_BGR;
    jpeg_start_decompress(&image);
    if (box[0] >= 0 && box[1] >= 0 && box[2] > 0 && box[3] > 0 && end <= (int)image.output_height &&
        box[1] + box[3] <= (int)image.output_width) {
      jpeg_crop_scanline(&image, &left, &width);
      if ((int)left == box[1] && (int)width == box[3]) {
        if (box[0]) jpeg_skip_scanlines(&image, box[0]);
        while ((int)image.output_scanline < end) {
          JSAMPROW row = pixels + (size_t)(image.output_scanline - box[0]) * 3 * width;
          jpeg_read_scanlines(&image, &row, 1);
        }
        whole = 1;
      }
    }
  }
  jpeg_destroy_decompress(&image);
  return whole;
}
